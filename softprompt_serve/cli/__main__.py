"""``python -m softprompt_serve.cli``, for where the script is not on the PATH."""

from softprompt_serve.cli.app import main

if __name__ == "__main__":
    main()
