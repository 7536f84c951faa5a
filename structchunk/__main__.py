"""The command line: ``structchunk``, or ``python -m structchunk``."""

from __future__ import annotations

import sys

from .errors import missing_extra


def main() -> None:
    """Run the command line, or say which packages it needs."""
    try:
        from .cli.program import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich"):
            raise
        sys.exit(f"structchunk: {missing_extra(f'the command line needs {package}', 'cli')}")
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
