"""Hide the passwords of database addresses in texts that are printed or written."""

import re

IN_ADDRESS = re.compile(r"(\w[\w+.-]*://[^\s/:@]*):[^\s@]*@")
IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd)=)[^&\s]*", re.IGNORECASE)


def hidden(text: str) -> str:
    """Return a text, such as a command, with *** in place of the passwords of its addresses.

    >>> hidden("vidrl fit postgresql://ann:secret@host/taste --out taste/")
    'vidrl fit postgresql://ann:***@host/taste --out taste/'
    >>> hidden("postgresql://host/taste?user=ann&password=secret"), hidden("taste.db")
    ('postgresql://host/taste?user=ann&password=***', 'taste.db')
    """
    return IN_QUERY.sub(r"\1***", IN_ADDRESS.sub(r"\1:***@", text))
