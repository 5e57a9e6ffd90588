// Sign up, log in, list all pages by Link, update with If-Match, delete: with a client generated from the document.

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

for (const name of ["a", "b", "c", "d"]) {
  const created = await anonymous.POST("/api/v1/users/", { body: { email: `${name}@x.org`, password } });
  assert.equal(created.response.status, 201);
}

const names: string[] = [];
let cursor: string | undefined;
do {
  const page = await client.GET("/api/v1/users/", { params: { query: { sort: "-email", limit: 2, cursor } } });
  assert(page.data);
  names.push(...page.data.map((user) => user.email.charAt(0)));
  const next = /<([^>]*)>; rel="next"/.exec(page.response.headers.get("Link") ?? "")?.[1];
  cursor = next && (new URL(next, baseUrl).searchParams.get("cursor") ?? undefined);
} while (cursor);
assert.deepEqual(names, ["g", "d", "c", "b", "a"]);

const etag = (await client.GET("/api/v1/users/me")).response.headers.get("ETag");
assert(etag);
const update = (full_name: string) =>
  client.PATCH("/api/v1/users/me", { params: { header: { "if-match": etag } }, body: { full_name } });
assert.equal((await update("changed")).data?.full_name, "changed");
const stale = await update("too late");
assert.equal(stale.response.status, 412);
assert.equal(stale.error?.code, "precondition_failed");

const deleted = await client.DELETE("/api/v1/users/me");
assert.equal(deleted.response.status, 204);
console.log("done");
