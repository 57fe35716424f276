// Runs KMS calls with AWS's own JavaScript client, for
// internal/kmsemulator/foreignclients_test.go.
//
// The endpoint and the credentials come from the environment, as for any
// program of this client. Each line of standard input is one call:
//
//   {"command": "Encrypt", "region": "us-west-2", "input": {...},
//    "service": "...", "scope": "...", "offset": 0, "secret": "..."}
//
// where service, scope (the signature's Region), offset (of the clock, in
// milliseconds) and secret spoil the signature. Each line of standard output is
// its result. Bytes are {"base64": "..."} both ways, dates {"date": "..."}.

import { createInterface } from "node:readline";
import * as kms from "@aws-sdk/client-kms";

const decode = (v) => {
  if (Array.isArray(v)) return v.map(decode);
  if (v === null || typeof v !== "object") return v;
  if (typeof v.base64 === "string") return new Uint8Array(Buffer.from(v.base64, "base64"));
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, decode(x)]));
};

const encode = (v) => {
  if (v instanceof Uint8Array) return { base64: Buffer.from(v).toString("base64") };
  if (v instanceof Date) return { date: v.toISOString() };
  if (Array.isArray(v)) return v.map(encode);
  if (v === null || typeof v !== "object") return v;
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, encode(x)]));
};

const clientFor = (step) => {
  const config = { region: step.region, maxAttempts: 1, systemClockOffset: step.offset ?? 0 };
  if (step.secret) {
    config.credentials = { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: step.secret };
  }
  const client = new kms.KMSClient(config);
  if (step.service || step.scope) {
    const signer = client.config.signer;
    client.config.signer = async (...args) => {
      const real = await signer(...args);
      return {
        sign: (request, options) =>
          real.sign(request, {
            ...options,
            signingService: step.service ?? options.signingService,
            signingRegion: step.scope ?? options.signingRegion,
          }),
      };
    };
  }
  return client;
};

const run = async (step) => {
  const client = clientFor(step);
  try {
    const Command = kms[`${step.command}Command`];
    if (!Command) throw new Error(`this client knows no ${step.command}`);
    const { $metadata, ...output } = await client.send(new Command(decode(step.input ?? {})));
    return { ok: true, status: $metadata.httpStatusCode, requestId: $metadata.requestId, output: encode(output) };
  } catch (e) {
    return {
      ok: false, status: e.$metadata?.httpStatusCode ?? 0, requestId: e.$metadata?.requestId,
      code: e.name, message: e.message, known: e instanceof kms.KMSServiceException,
    };
  } finally {
    client.destroy();
  }
};

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await run(JSON.parse(line))) + "\n");
}
