"""The command line, on click and rich. Nothing else in the package imports it.

Commands, what they print, and the file formats that they import and export. Works through the handles and stores
that users have; no command changes a file of a database by itself.

Modules, from the bottom up: arguments, progress, changes, output, source, columns, look, maintain, remote, npz,
png, formats, picture, transfer, program.
"""
