"""The site of docs/: it stages the pages, adds the reference made from the code, and lets Sphinx build them."""
