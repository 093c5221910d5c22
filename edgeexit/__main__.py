"""`python -m edgeexit`, for where the script is not on the path."""

from edgeexit.cli import main

main()
