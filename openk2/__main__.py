"""`python -m openk2`: the command line. While it loads, Ctrl-C ends the process as it ends any other."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from openk2.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
