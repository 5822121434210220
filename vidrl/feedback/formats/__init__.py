"""The formats of files of people's judgments: one file a format, found by its name.

`vidrl.feedback.files` reads and writes them; `vidrl list feedback.formats` lists them.
"""
