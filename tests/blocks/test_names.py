"""Which endpoints there are, as Prefect's server tells."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockSchemaCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import WebhookEndpoint
from blocks.catalog import remove_endpoint
from blocks.loading import require_endpoint

pytestmark = pytest.mark.engine

# More than the server returns at once.
_NEWER_SCHEMAS = 201


async def test_an_endpoint_is_known_beside_hundreds_of_newer_block_schemas(prefect_api):
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(url=SecretStr("https://example.com")).asave("old", overwrite=True)
        async with get_client() as client:
            other = await client.read_block_type_by_slug("secret")
            for number in range(_NEWER_SCHEMAS):
                fields = {"title": f"Secret, as of version {number}", "type": "object", "properties": {}}
                await client.create_block_schema(BlockSchemaCreate(fields=fields, block_type_id=other.id))
        await require_endpoint("old")
        await remove_endpoint("old")
