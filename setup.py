"""Metadata lives in pyproject.toml; here is only what it cannot say: where the .pth goes."""

from setuptools import setup
from setuptools.command.install_data import install_data


class InstallPth(install_data):
    """Put data files beside the package, where Python looks for ``.pth`` files.

    ``data_files`` land under ``sys.prefix`` by default. Both kinds of wheel, normal and
    editable, run this one command, so both carry the ``.pth``.
    """

    def run(self):
        self.install_dir = self.get_finalized_command('install').install_lib
        super().run()


setup(data_files=[('', ['pyiqa_amhp_autoload.pth'])], cmdclass={'install_data': InstallPth})
