"""`python -m dualpool`: the program in this interpreter instead of one that it embeds."""

import os
import signal
import sys


def main() -> None:
    try:
        from dualpool import _native
    except ImportError as error:
        print(f"error: dualpool's extension module does not load: {error}", file=sys.stderr)
        print("  hint: `make wheel` in dualpool's folder, then `pip install target/wheels/dualpool-*.whl`", file=sys.stderr)
        raise SystemExit(1)
    # Ctrl-C is the program's. Python's own handler would raise KeyboardInterrupt once the program is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _native.main(sys.argv[1:])
    # The loop that drove the engines still runs on its thread, so this interpreter cannot be wound up.
    os._exit(code)


if __name__ == "__main__":
    main()
