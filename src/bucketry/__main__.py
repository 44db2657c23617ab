"""``python -m bucketry``: the command line without its script."""

from bucketry.cli.main import main

if __name__ == "__main__":
    main()
