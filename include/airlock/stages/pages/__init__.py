"""Pages for people: a run's report as HTML, and the charts, numbers and styles that it shares with the console.

Pages are made here, without Airflow and without a script, so that the same page can be mailed, printed and shown in
the Airflow UI. Every value is hostile: templates escape by default, and charts are built by `charts.tag`.
"""
