"""Numbers: one record a request, histograms of bounded size, groups of requests, SLOs."""
