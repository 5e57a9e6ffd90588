"""Sign up, log in, create, list all pages by Link, update with If-Match, delete: by a client made from the document."""

import re
import sys
from urllib.parse import parse_qs, urlsplit

from onefold_client import AuthenticatedClient, Client
from onefold_client.api.auth import login
from onefold_client.api.items import create_item, delete_item, list_items, read_item, update_item
from onefold_client.api.users import create_user
from onefold_client.models import ItemCreate, ItemUpdate, ListItemsSort, LoginForm, Problem, UserCreate
from onefold_client.types import UNSET

EMAIL, PASSWORD = "hopper@example.com", "correct horse battery"

url = sys.argv[1]
anonymous = Client(base_url=url)
signed_up = create_user.sync(client=anonymous, body=UserCreate(email=EMAIL, password=PASSWORD))
assert signed_up.email == EMAIL
token = login.sync(client=anonymous, body=LoginForm(username=EMAIL, password=PASSWORD))
client = AuthenticatedClient(base_url=url, token=token.access_token)

for title in "abcde":
    created = create_item.sync_detailed(client=client, body=ItemCreate(title=title), idempotency_key=title)
    assert created.status_code == 201

titles, cursor = [], UNSET
while True:
    page = list_items.sync_detailed(client=client, sort=ListItemsSort.VALUE_5, limit=2, cursor=cursor)
    titles += [item.title for item in page.parsed]
    following = re.search(r'<([^>]*)>; rel="next"', page.headers.get("Link", ""))
    if not following:
        break
    (cursor,) = parse_qs(urlsplit(following[1]).query)["cursor"]
assert titles == list("edcba"), titles

item = list_items.sync(client=client)[0]
etag = read_item.sync_detailed(item.id, client=client).headers["ETag"]
assert update_item.sync(item.id, client=client, body=ItemUpdate(title="changed"), if_match=etag).title == "changed"
stale = update_item.sync(item.id, client=client, body=ItemUpdate(title="too late"), if_match=etag)
assert isinstance(stale, Problem)
assert stale.code == "precondition_failed"
assert delete_item.sync_detailed(item.id, client=client).status_code == 204
print("done")
