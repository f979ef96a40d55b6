// What one would write in node: the same endpoint with http or https and JSON.stringify, one process.
const { readFileSync } = require("node:fs");
const { PORT, DATASET_PATH, TLS_CERT, TLS_KEY } = process.env;
const dataset = JSON.parse(readFileSync(DATASET_PATH, "utf8"));

function handle(request, response) {
  const match = /^\/json\/(\d+)(?:\?m=(-?\d+))?$/.exec(request.url);
  if (!match) {
    response.writeHead(404).end();
    return;
  }
  const multiplier = Number(match[2] ?? 1);
  const items = dataset.slice(0, Number(match[1])).map((item) => ({ ...item, total: item.price * item.quantity * multiplier }));
  const body = Buffer.from(JSON.stringify({ items, count: items.length }));
  response.writeHead(200, { "content-type": "application/json", "content-length": body.length }).end(body);
}

const server = TLS_CERT
  ? require("node:https").createServer(
      { cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY), minVersion: "TLSv1.3" }, handle)
  : require("node:http").createServer(handle);
server.keepAliveTimeout = 60000;
server.listen({ port: Number(PORT), host: "127.0.0.1", backlog: 16384 });
