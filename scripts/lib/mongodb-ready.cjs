// usage: node mongodb-ready.cjs CACHE PORT
// Makes the one-node replica set and its user where they are missing, and answers 0 when a logged-in majority write works.
"use strict";
const { createRequire } = require("node:module");
const path = require("node:path");
const [cache, port] = process.argv.slice(2);
const { MongoClient } = createRequire(path.join(cache, "index.js"))("mongodb");
const host = `127.0.0.1:${port}`;
const limits = { serverSelectionTimeoutMS: 1500, connectTimeoutMS: 1500 };

async function connected(url, work) {
  const client = new MongoClient(url, limits);
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}

// Without a user the server lets a caller on loopback set up the set and the first user, and nothing more.
async function setUp() {
  await connected(`mongodb://${host}/?directConnection=true`, async (client) => {
    const admin = client.db("admin");
    try {
      await admin.command({ replSetInitiate: { _id: "rs0", members: [{ _id: 0, host }] } });
    } catch (error) {
      if (error.codeName !== "AlreadyInitialized" && error.codeName !== "Unauthorized") throw error;
    }
    for (let turn = 0; turn < 100; turn += 1) {
      if ((await admin.command({ hello: 1 })).isWritablePrimary) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await admin.command({ createUser: "crm", pwd: "s3cret", roles: ["root"] });
  });
}

async function write() {
  await connected(`mongodb://crm:s3cret@${host}/?replicaSet=rs0&authSource=admin`, async (client) => {
    const probes = client.db("open_crm_probe").collection("ready");
    await probes.updateOne({ _id: 1 }, { $inc: { asked: 1 } }, { upsert: true, writeConcern: { w: "majority" } });
  });
}

(async () => {
  try {
    await setUp();
  } catch (error) {
    // Both say that the user is there already.
    if (!["Unauthorized", "Location51003"].includes(error.codeName)) throw error;
  }
  await write();
})().catch((error) => {
  console.error(`${error.name} ${error.codeName ?? ""} ${error.message}`);
  process.exitCode = 1;
});
