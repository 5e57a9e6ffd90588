// Sign up, log in, create, list all pages by Link, update with If-Match, delete: by a client made from the document.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const baseUrl = process.argv[2];
assert(baseUrl);
const anonymous = createClient<paths>({ baseUrl });
const email = "grace@example.com";
const password = "correct horse battery";

const signedUp = await anonymous.POST("/api/v1/users/", { body: { email, password } });
assert.equal(signedUp.response.status, 201);
assert.equal(signedUp.data?.email, email);

const loggedIn = await anonymous.POST("/api/v1/auth/login", {
  body: { username: email, password },
  bodySerializer: (form) => new URLSearchParams(form),
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
assert(loggedIn.data);
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${loggedIn.data.access_token}` } });

for (const title of ["a", "b", "c", "d", "e"]) {
  const created = await client.POST("/api/v1/items/", {
    body: { title },
    params: { header: { "idempotency-key": title } },
  });
  assert.equal(created.response.status, 201);
}

const titles: string[] = [];
let cursor: string | undefined;
do {
  const page = await client.GET("/api/v1/items/", { params: { query: { sort: "-title", limit: 2, cursor } } });
  assert(page.data);
  titles.push(...page.data.map((item) => item.title));
  const next = /<([^>]*)>; rel="next"/.exec(page.response.headers.get("Link") ?? "")?.[1];
  cursor = next && (new URL(next, baseUrl).searchParams.get("cursor") ?? undefined);
} while (cursor);
assert.deepEqual(titles, ["e", "d", "c", "b", "a"]);

const [item] = (await client.GET("/api/v1/items/")).data ?? [];
assert(item);
const path = { item_id: item.id };
const etag = (await client.GET("/api/v1/items/{item_id}", { params: { path } })).response.headers.get("ETag");
assert(etag);
const update = (title: string) =>
  client.PATCH("/api/v1/items/{item_id}", { params: { path, header: { "if-match": etag } }, body: { title } });
assert.equal((await update("changed")).data?.title, "changed");
const stale = await update("too late");
assert.equal(stale.response.status, 412);
assert.equal(stale.error?.code, "precondition_failed");

const deleted = await client.DELETE("/api/v1/items/{item_id}", { params: { path } });
assert.equal(deleted.response.status, 204);
console.log("done");
