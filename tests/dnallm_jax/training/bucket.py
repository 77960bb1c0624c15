"""A bucket on this machine: an emulator of Google Cloud Storage that answers at 127.0.0.1."""

import contextlib
import logging
import socketserver
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import fsspec
import pytest
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

from tests.dnallm_jax.training.place import free_port


@contextlib.contextmanager
def emulated(name: str) -> Iterator[dict[str, str]]:
    """Sets, and yields, the variables by which gcsfs and TensorStore find the bucket."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        # Neither asks Google who we are, or what kind of bucket this is.
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GCE_METADATA_ROOT": "127.0.0.1:1",
    }
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        # TensorStore drops connections that it needs no more: nothing to tell.
        patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
        patch.setattr(objects, "download", _with_generation(objects.download))
        patch.setattr(objects, "_media_upload", _if_generation_matches(objects._media_upload))
        for key, value in environment.items():
            patch.setenv(key, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        server = create_server("127.0.0.1", port, in_memory=True, default_bucket=name)
        server.start()
        try:
            yield environment
        finally:
            server.stop()
            fsspec.get_filesystem_class("gs").clear_instance_cache()


# What TensorStore relies on and the emulator lacks: versions of objects, and writes that name one.


def _generation(storage: Any, bucket: str, name: str) -> str:
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def _with_generation(download: Any) -> Any:
    def downloaded(request: Any, response: Any, storage: Any, *rest: Any) -> None:
        name = request.params["object_id"]
        found = _generation(storage, request.params["bucket_name"], name)
        if request.query.get("ifGenerationNotMatch") == [found]:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            download(request, response, storage, *rest)
        response["x-goog-generation"] = found

    return downloaded


def _if_generation_matches(upload: Any) -> Any:
    def uploaded(request: Any, response: Any, storage: Any) -> None:
        name = request.query["name"][0]
        found = _generation(storage, request.params["bucket_name"], name)
        if request.query.get("ifGenerationMatch", [found]) == [found]:
            upload(request, response, storage)
        else:
            response.status = HTTPStatus.PRECONDITION_FAILED

    return uploaded
