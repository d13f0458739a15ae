"""`python -m modeling_cvls ...` is `cvls ...`."""

from cvls import main

if __name__ == "__main__":
    main()
