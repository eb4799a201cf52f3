"""The comparison: paired slices, exact intervals, and verdicts that may be "no difference shown".

`study` is what is stored, `statistics`, `design`, `fingerprint`, `verdict` and `analysis` are pure,
`bench` starts daemons and loads them, `report` prints.
"""
