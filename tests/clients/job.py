"""Sign up, log in, list all pages by Link, update with If-Match, delete: with a client generated from the document."""

import re
import sys
from urllib.parse import parse_qs, urlsplit

from onefold_client import AuthenticatedClient, Client
from onefold_client.api.auth import login
from onefold_client.api.users import create_user, delete_me, list_users, read_me, update_me
from onefold_client.models import ListUsersSort, LoginForm, Problem, UserCreate, UserUpdateMe
from onefold_client.types import UNSET

EMAIL, PASSWORD = "hopper@example.com", "correct horse battery"

url = sys.argv[1]
anonymous = Client(base_url=url)
signed_up = create_user.sync(client=anonymous, body=UserCreate(email=EMAIL, password=PASSWORD))
assert signed_up.email == EMAIL
token = login.sync(client=anonymous, body=LoginForm(username=EMAIL, password=PASSWORD))
client = AuthenticatedClient(base_url=url, token=token.access_token)

for name in "abcd":
    created = create_user.sync_detailed(client=anonymous, body=UserCreate(email=f"{name}@x.org", password=PASSWORD))
    assert created.status_code == 201

names, cursor = [], UNSET
while True:
    page = list_users.sync_detailed(client=client, sort=ListUsersSort.VALUE_5, limit=2, cursor=cursor)
    names += [user.email[0] for user in page.parsed]
    following = re.search(r'<([^>]*)>; rel="next"', page.headers.get("Link", ""))
    if not following:
        break
    (cursor,) = parse_qs(urlsplit(following[1]).query)["cursor"]
assert names == list("hdcba"), names

etag = read_me.sync_detailed(client=client).headers["ETag"]
changed = update_me.sync(client=client, body=UserUpdateMe(full_name="changed"), if_match=etag)
assert changed.full_name == "changed"
stale = update_me.sync(client=client, body=UserUpdateMe(full_name="too late"), if_match=etag)
assert isinstance(stale, Problem)
assert stale.code == "precondition_failed"
assert delete_me.sync_detailed(client=client).status_code == 204
print("done")
