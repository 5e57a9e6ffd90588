// Log in, refresh expired tokens at the token endpoint, revoke: with two third-party OAuth clients.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { OAuth2Client, OAuth2Fetch } from "@badgateway/oauth2-client";
import { ResourceOwnerPassword } from "simple-oauth2";

const url = process.argv[2];
const me = `${url}/api/v1/users/me`;
const user = { username: "perlman@example.com", password: "correct horse battery" };
const wrong = { ...user, password: "not the one" };

const statusFor = async (token) => (await fetch(me, { headers: { Authorization: `Bearer ${token}` } })).status;

const signedUp = await fetch(`${url}/api/v1/users/`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ email: user.username, password: user.password }),
});
assert.equal(signedUp.status, 201);

// The one finds the endpoints by itself (RFC 8414), and refreshes by itself. The other is told, and asked to.
const client = new OAuth2Client({ server: url, clientId: "shop" });
const given = [];
let logins = 0;
const wrapper = new OAuth2Fetch({
  client,
  getNewToken: () => {
    logins += 1;
    return client.password(user);
  },
  storeToken: (token) => given.push(token),
});
assert.equal((await wrapper.fetch(me)).status, 200);

const auth = { tokenHost: url, tokenPath: "/api/v1/auth/login", revokePath: "/api/v1/auth/revoke" };
const simple = new ResourceOwnerPassword({ client: { id: "shop", secret: "" }, auth });
const first = await simple.getToken(user);
assert.equal(await statusFor(first.token.access_token), 200);

await sleep(first.token.expires_in * 1000 + 100);
assert.equal((await wrapper.fetch(me)).status, 200);
assert.deepEqual([logins, given.length], [1, 2]);
assert.notEqual(given[0].refreshToken, given[1].refreshToken);
assert(first.expired());
const second = await first.refresh();
assert.notEqual(second.token.refresh_token, first.token.refresh_token);
assert.equal(await statusFor(second.token.access_token), 200);

await assert.rejects(client.password(wrong), { oauth2Code: "invalid_grant" });
await assert.rejects(simple.getToken(wrong), (error) => error.data.payload.error === "invalid_grant");

await client.revoke(given[1], "refresh_token");
await second.revokeAll();
for (const token of [given[1].accessToken, second.token.access_token]) assert.equal(await statusFor(token), 401);
await assert.rejects(client.refreshToken(given[1]), { oauth2Code: "invalid_grant" });
await assert.rejects(second.refresh(), (error) => error.data.payload.error === "invalid_grant");
console.log("done");
