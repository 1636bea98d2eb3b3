"""The chart's tests need Helm's engine and the Kubernetes schemas, both from PyPI."""

import pytest

pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: `make install-test`")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: `make install-test`")
