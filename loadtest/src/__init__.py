"""Load generation against OpenAI-compatible and SGLang servers: workloads, traces, client, report, A/B.

Where things live (imports point downwards only):

    ab, session_run   whole commands: start servers, run, write a report
    report/           JSON, CSV, HTML, comparison, fail-if expressions
    drive/            load shapes, limits, the scheduler of sessions, scraping, the live view
    client/           one request: body, SSE, time stamps, kinds of failure
    measure/          records, histograms, groups, SLOs
    workload/ traces/ what is to be sent; know nothing of HTTP
"""
