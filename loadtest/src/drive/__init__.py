"""When what is sent: load shapes, limits, the player of sessions, the scraper and the live view."""
