"""The pages of the Space: each module in this folder is one, so a new page is a new file.

A page module has:

- `TITLE` (`str`): Text of its tab.
- `ORDER` (`int`): Tabs are sorted by it; the first page is open at first.
- `SETTINGS` (`dict[str, Setting]`, *optional*): What a visitor can set on this page; the address holds the values.
- `build(app)`: Lays out the page, and connects its parts by `app.draw`, `app.set`, `app.choose` and `app.widget`.
- `prepare(app, request, view)` (*optional*): Generator that does what the page needs before it is drawn when an
  address leads to it; it yields HTML that shows the progress.

The module's name is the page's name in the address (`tab=`). Modules whose name begins with `_` are no pages.
"""
