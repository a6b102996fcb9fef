"""``python -m cgm_kernels`` prints :func:`cgm_kernels.build_info`."""

from . import build_info


def _show(info: dict, indent: str = "") -> None:
    for key, value in info.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        else:
            print(f"{indent}{key}: {'none' if value is None else value}")


if __name__ == "__main__":
    _show(build_info())
