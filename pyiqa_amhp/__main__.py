"""``python -m pyiqa_amhp`` is the command ``amhp``."""

from pyiqa_amhp.cli.main import main

if __name__ == '__main__':
    main()
