"""Tell pyiqa about AMHP as soon as pyiqa is imported, without anybody importing us.

``pyiqa_amhp_autoload.pth`` imports this module at every start of Python, so it uses nothing
but ``sys`` and ``os`` and only leaves a note in ``sys.meta_path``. pyiqa's registries load
plug-ins through entry points, but its table of metrics (``pyiqa.default_model_configs``)
has no such hook: this is ours. ``PYIQA_AMHP_AUTOLOAD=0`` switches it off.
"""

import os
import sys

TABLE = 'pyiqa.default_model_configs'


def _register():
    """Add our entries; a fault of ours must never keep pyiqa from being imported."""
    try:
        from pyiqa_amhp.plugin import register_all

        register_all()
    except Exception as error:
        import warnings

        warnings.warn(
            f'pyiqa-amhp could not register its metrics: {error!r}. '
            'PYIQA_AMHP_AUTOLOAD=0 switches this off.',
            RuntimeWarning,
            stacklevel=1,
        )


class _Finder:
    """Let the ordinary finders find pyiqa's table, and register once it has been executed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != TABLE:
            return None
        for finder in sys.meta_path:
            find_spec = None if finder is cls else getattr(finder, 'find_spec', None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module, execute=execute):
                    execute(module)
                    _register()

                spec.loader.exec_module = exec_module
                return spec
        return None


def install():
    """Register with pyiqa now if it is loaded, and whenever it will be. Safe to repeat."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    if TABLE in sys.modules:
        _register()


if os.environ.get('PYIQA_AMHP_AUTOLOAD') != '0':
    install()
