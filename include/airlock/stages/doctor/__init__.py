"""The checks of ``airlock doctor``: whether everything that a pipeline needs is there, reachable and set up safely.

`examination.examine` carries out the checks of every module here. Each looks at one subject and changes nothing.
"""
