"""Load generation against OpenAI-compatible and SGLang servers: workloads, traces, client, report, A/B.

Where things live (imports point downwards only):

    ab                two servers in turn, and their comparison
    execute, runner   one run: its stages, its files, its exit code
    options, target   all that a run needs to know; the server it is sent to
    report/           JSON, CSV, HTML, comparison, fail-if expressions
    drive/            load shapes, limits, the scheduler of sessions, scraping, the live view
    client/           one request: body, SSE, time stamps, kinds of failure
    measure/          records, histograms, groups, SLOs
    workload/ traces/ what is to be sent; know nothing of HTTP
"""
