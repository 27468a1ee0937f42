"""Every hook into SGLang, one file a seam, by the device that needs it."""
