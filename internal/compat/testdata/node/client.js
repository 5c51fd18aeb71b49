// A WebSocket client for the tests, driven by JSON lines on standard input:
// {"send": text} and {"close": code, "reason": text}. It tells what happens in JSON
// lines on standard output, and ends when the connection does.
'use strict';
const readline = require('readline');
const WebSocket = require('ws');

const [url, subprotocol] = process.argv.slice(2);
const tell = (event) => process.stdout.write(JSON.stringify(event) + '\n');

const ws = new WebSocket(url, subprotocol ? [subprotocol] : [], { ca: process.env.CA || undefined });
ws.on('open', () => tell({ open: true, protocol: ws.protocol }));
ws.on('message', (data, binary) => tell({ text: data.toString(), binary }));
ws.on('error', (err) => tell({ error: String(err) }));
ws.on('close', (code, reason) => {
  tell({ closed: code, reason: reason.toString() });
  process.stdin.destroy();
});

const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => {
  const command = JSON.parse(line);
  if ('send' in command) ws.send(command.send);
  else ws.close(command.close, command.reason);
});
input.on('close', () => ws.terminate());
