from drrlib.cli import main

if __name__ == "__main__":  # processes of a study import this file again
    raise SystemExit(main())
