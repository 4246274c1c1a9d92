"""`python -m ds2c_cli` is `ds2c`."""

from .cli import main

if __name__ == "__main__":
    main()
