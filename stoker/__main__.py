"""The `stoker` command, also as `python -m stoker`.

Importing what it does takes a tenth of a second and more. Ctrl-C in that time ends it as it ends any other
command: Python's own way is a traceback.
"""

import signal


def main() -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stoker.cli.main import main as run

    signal.signal(signal.SIGINT, on_interrupt)
    run()


if __name__ == "__main__":
    main()
