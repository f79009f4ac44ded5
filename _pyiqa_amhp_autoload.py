"""Register AMHP when pyiqa is imported, also where nobody imports ``pyiqa_amhp``.

``pyiqa_amhp_autoload.pth`` imports this module at every start of Python. The module therefore uses
nothing but ``sys`` and ``os``, and only adds a finder to ``sys.meta_path``. pyiqa's registries load
plug-ins through entry points; its table of metrics (``pyiqa.default_model_configs``) has no entry
point, which is why this finder exists. ``PYIQA_AMHP_AUTOLOAD=0`` switches it off.
"""

import os
import sys

TABLE = 'pyiqa.default_model_configs'


def _register():
    """Add AMHP's entries; an error becomes a warning, so that pyiqa can still be imported."""
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
    """Import finder that registers AMHP's metrics after pyiqa's table of metrics is executed."""

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
    """Register with pyiqa now if it is loaded, else when it is imported; calls may be repeated."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    if TABLE in sys.modules:
        _register()


if os.environ.get('PYIQA_AMHP_AUTOLOAD') != '0':
    install()
