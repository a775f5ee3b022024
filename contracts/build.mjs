// Compiles the contract into the artefact that the wheel ships: node build.mjs [OUTPUT]
//
// The same source and compiler give the same bytes on any machine: the compiler is pinned exactly, no metadata hash goes
// into the bytecode, and no path of this machine goes into the input. The target is `london`, so that the same bytecode
// runs on proof-of-authority networks that know no later rules.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
// SOLC_MODULES lets a run use a compiler that is installed elsewhere
const require = createRequire(process.env.SOLC_MODULES ? join(process.env.SOLC_MODULES, "x.js") : import.meta.url);
const solc = require("solc");
const NAME = "HieBridgeLedger";
const PINNED = "0.8.37";

if (!solc.version().startsWith(`${PINNED}+`)) {
  throw new Error(`solc ${solc.version()} is not ${PINNED}: npm install --no-package-lock`);
}

const input = {
  language: "Solidity",
  sources: { [`${NAME}.sol`]: { content: readFileSync(join(here, "src", `${NAME}.sol`), "utf8") } },
  settings: {
    evmVersion: "london",
    optimizer: { enabled: true, runs: 10000 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "storageLayout"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const problems = output.errors ?? [];
for (const problem of problems) console.error(problem.formattedMessage);
if (problems.length) process.exit(1);

const contract = output.contracts[`${NAME}.sol`][NAME];
const artifact = {
  contract: NAME,
  compiler: PINNED,
  evmVersion: input.settings.evmVersion,
  abi: contract.abi,
  storage: contract.storageLayout.storage.map(({ label, slot }) => ({ label, slot })),
  bytecode: contract.evm.bytecode.object,
  runtime: contract.evm.deployedBytecode.object,
};
const target = process.argv[2] ?? join(here, "..", "adapters", "chains", "evm", "artifacts", `${NAME}.json`);
writeFileSync(target, `${JSON.stringify(artifact, null, 1)}\n`);
