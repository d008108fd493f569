/* Evaluates calls of display.js: [[python name, arguments], …] on stdin, results on stdout. */
import { readFileSync } from "node:fs";
import { argument, shown } from "./cases.js";

const calls = JSON.parse(readFileSync(0, "utf8"));
const results = calls.map(([name, args]) => shown(name)(...args.map(argument)));
process.stdout.write(JSON.stringify(results));
