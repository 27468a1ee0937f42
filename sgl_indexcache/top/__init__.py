"""`sgl-indexcache top`: what a running server does, as far as this plugin is concerned.

source.py   asks the server                     figures.py  from two answers to what is shown
latency.py  percentiles of SGLang's histograms  screen.py   on a terminal
run.py      again and again                     stream.py   the newest events
"""
