// A reader of what etcd holds, written from docs/format.md alone. It opens every vector
// of the directories that it is given, refuses what has been tampered with, and says
// what it did: a line for each, and exit code 1 if one failed.
import { createDecipheriv, createHash, createHmac } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import nacl from "tweetnacl";

class Refused extends Error {}

function need(ok, why) {
  if (!ok) throw new Refused(why);
}

// The value: a prefix and a body, or an object.

function parse(value, names = []) {
  const start = Buffer.from("k8s:enc:");
  if (!value.subarray(0, start.length).equals(start)) return { format: "plaintext", provider: "", sealed: value };
  for (const prefix of ["aescbc:v1:", "aesgcm:v1:", "secretbox:v1:", "kms:v1:", "kms:v2:"]) {
    const whole = Buffer.from("k8s:enc:" + prefix);
    if (!value.subarray(0, whole.length).equals(whole)) continue;
    const [provider, body] = cutName(value.subarray(whole.length), names);
    const format = prefix.startsWith("kms:") ? prefix.slice(0, -1).replace(":", " ") : prefix.slice(0, prefix.indexOf(":"));
    const record = { format, provider, sealed: body };
    if (format === "kms v1") splitV1(record);
    if (format === "kms v2") splitV2(record);
    need(record.sealed.length >= least(record), "too short");
    return record;
  }
  throw new Refused("no format that is known");
}

function cutName(body, names) {
  const fits = names.filter((n) => body.subarray(0, n.length + 1).equals(Buffer.from(n + ":")));
  const longest = fits.sort((a, b) => b.length - a.length)[0];
  const end = longest === undefined ? body.indexOf(":") : longest.length;
  need(end >= 0, "the name does not end");
  return [body.subarray(0, end).toString(), body.subarray(end + 1)];
}

function least({ format, type }) {
  switch (format) {
    case "aescbc":
      return 32;
    case "secretbox":
      return 40;
    case "kms v2":
      return type === 1 ? 60 : 28;
    default:
      return 28;
  }
}

function splitV1(record) {
  const body = record.sealed;
  need(body.length >= 2, "no length");
  const n = body.readUInt16BE(0);
  need(n >= 1 && 2 + n <= body.length, "the length is wrong");
  record.wrapped = body.subarray(2, 2 + n);
  record.sealed = body.subarray(2 + n);
}

// The EncryptedObject, a protobuf message.

function* fields(message) {
  let at = 0;
  const varint = () => {
    let n = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      need(at < message.length, "the message ends early");
      const byte = BigInt(message[at++]);
      n |= (byte & 127n) << shift;
      if (byte < 128n) return n;
    }
    throw new Refused("a varint is too long");
  };
  const take = (n) => {
    need(n <= message.length - at, "the message ends early");
    at += n;
    return message.subarray(at - n, at);
  };
  while (at < message.length) {
    const tag = varint();
    const number = Number(tag >> 3n);
    need(number > 0, "a field has the number 0");
    switch (Number(tag & 7n)) {
      case 0:
        yield { number, n: varint() };
        break;
      case 1:
        take(8);
        break;
      case 2:
        yield { number, bytes: take(Number(varint())) };
        break;
      case 5:
        take(4);
        break;
      default:
        throw new Refused("no protobuf message");
    }
  }
}

function text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refused("no UTF-8");
  }
}

function splitV2(record) {
  const message = record.sealed;
  Object.assign(record, { sealed: Buffer.alloc(0), wrapped: Buffer.alloc(0), annotations: {}, type: 0 });
  let keyID = Buffer.alloc(0);
  for (const { number, n, bytes } of fields(message)) {
    if (number === 1 && bytes) record.sealed = bytes;
    if (number === 2 && bytes) keyID = bytes;
    if (number === 3 && bytes) record.wrapped = bytes;
    if (number === 4 && bytes) Object.assign(record.annotations, entry(bytes));
    if (number === 5 && n !== undefined) record.type = Number(BigInt.asIntN(32, n));
  }
  record.keyID = text(keyID);
  const size = Object.entries(record.annotations).reduce((sum, [k, v]) => sum + Buffer.byteLength(k) + v.length, 0);
  need(record.type === 0 || record.type === 1, "a type that is not known");
  need(keyID.length >= 1 && keyID.length <= 1024, "keyID");
  need(record.wrapped.length >= 1 && record.wrapped.length <= 1024, "encryptedDEKSource");
  need(size <= 32 << 10, "annotations");
}

function entry(bytes) {
  let name = "";
  let value = Buffer.alloc(0);
  for (const f of fields(bytes)) {
    if (f.number === 1 && f.bytes) name = text(f.bytes);
    if (f.number === 2 && f.bytes) value = f.bytes;
  }
  return { [name]: value };
}

// Opening.

function gcm(key, sealed, path) {
  try {
    const d = createDecipheriv(`aes-${key.length * 8}-gcm`, key, sealed.subarray(0, 12), { authTagLength: 16 });
    d.setAAD(Buffer.from(path));
    d.setAuthTag(sealed.subarray(-16));
    return Buffer.concat([d.update(sealed.subarray(12, -16)), d.final()]);
  } catch {
    throw new Refused("GCM does not open it");
  }
}

function isObject(b) {
  return ["6b387300", "7b", "d9d9f7"].some((start) => b.toString("hex").startsWith(start));
}

const fitsCBC = (sealed) => sealed.length >= 32 && sealed.length % 16 === 0;

function cbc(key, sealed) {
  need(fitsCBC(sealed), "no blocks");
  let object;
  try {
    const d = createDecipheriv(`aes-${key.length * 8}-cbc`, key, sealed.subarray(0, 16)); // PKCS #7 is Node's own
    object = Buffer.concat([d.update(sealed.subarray(16)), d.final()]);
  } catch {
    throw new Refused("CBC does not open it");
  }
  need(isObject(object), "no object");
  return object;
}

function open(record, key, path) {
  const { format, sealed } = record;
  switch (format) {
    case "plaintext":
      return sealed;
    case "aescbc":
      return cbc(key, sealed);
    case "aesgcm":
      return gcm(key, sealed, path);
    case "secretbox": {
      const object = nacl.secretbox.open(sealed.subarray(24), sealed.subarray(0, 24), key);
      need(object !== null, "secretbox does not open it");
      return Buffer.from(object);
    }
    case "kms v1":
      try {
        return gcm(key, sealed, path);
      } catch (wrong) {
        if (!fitsCBC(sealed)) throw wrong;
        return cbc(key, sealed);
      }
    default: {
      if (record.type === 0) return gcm(key, sealed, path);
      const dek = createHmac("sha256", key).update(sealed.subarray(0, 32)).update(Buffer.of(1)).digest();
      return gcm(dek, sealed.subarray(32), path);
    }
  }
}

// What this program writes.

function blob(ciphertext, api) {
  need(ciphertext.length > 0, "empty");
  let rest = ciphertext;
  if (ciphertext[0] === 0x31) rest = ciphertext.subarray(1);
  else need(api === "v1" && (ciphertext[0] < 0x30 || ciphertext[0] > 0x3f), "no format that is known");
  need(rest.length >= 1 && rest.length <= 6144, "the CiphertextBlob's length");
  return rest;
}

function keyIDOf({ arn, material, context, epoch }) {
  const key = arn.includes(":key/mrk-") ? arn.replace(/^((?:[^:]*:){3})[^:]*/, "$1") : arn;
  const parameters = [];
  if (material) parameters.push("material=" + material);
  if (context.length > 0) {
    const hash = createHash("sha256");
    for (const [name, value] of context.map((pair) => pair.split(/=(.*)/s)).sort(([a], [b]) => (a < b ? -1 : 1))) {
      for (const part of [name, value]) {
        const n = Buffer.alloc(4);
        n.writeUInt32BE(Buffer.byteLength(part));
        hash.update(n).update(part);
      }
    }
    parameters.push("context=" + hash.digest("hex").slice(0, 16));
  }
  if (epoch) parameters.push("epoch=" + epoch);
  return parameters.length > 0 ? key + "?" + parameters.join("&") : key;
}

// The vectors.

function load(file) {
  const v = { annotation: [], context: [] };
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [name, value] = line.split(/: (.*)/s);
    if (Array.isArray(v[name])) v[name].push(value);
    else v[name] = value ?? "";
  }
  return v;
}

const hex = (digits) => Buffer.from(digits ?? "", "hex");

function equal(what, got, want) {
  const [a, b] = [got, want].map((x) => (Buffer.isBuffer(x) ? x.toString("hex") : JSON.stringify(x)));
  if (a !== b) throw new Error(`${what} is ${a}, want ${b}`);
}

function refuses(what, f) {
  try {
    f();
  } catch (wrong) {
    if (wrong instanceof Refused) return;
    throw wrong;
  }
  throw new Error(`${what} is not refused`);
}

function changed(bytes, at) {
  const copy = Buffer.from(bytes);
  copy[at] ^= 0x80;
  return copy;
}

function checkValue(v) {
  const value = hex(v.value);
  if (v.refused !== undefined) return refuses("it", () => parse(value));
  const record = parse(value);
  equal("format", record.format, v.format);
  equal("provider", record.provider, v.provider ?? "");
  if (v.wrapped !== undefined) equal("wrapped", record.wrapped, hex(v.wrapped));
  if (record.format === "kms v2") {
    equal("key_id", record.keyID, v.key_id);
    equal("type", record.type, { dek: 0, seed: 1 }[v.source]);
    const annotations = Object.entries(record.annotations).map(([name, bytes]) => `${name}=${bytes.toString("hex")}`);
    equal("annotations", annotations.sort(), v.annotation.sort());
  }
  const key = hex(v.key);
  equal("object", open(record, key, v.path), hex(v.object));
  if (record.format === "plaintext") return;
  refuses("another key", () => open(record, changed(key, 0), v.path));
  const by = v["opened-by"] ?? v.cipher;
  if (by === "cbc") return; // nothing authenticates it
  if (by !== "xsalsa20-poly1305") refuses("another path", () => open(record, key, v.path + "x"));
  for (let i = 0; i < record.sealed.length; i++) {
    refuses(`byte ${i} changed`, () => open({ ...record, sealed: changed(record.sealed, i) }, key, v.path));
  }
  for (let n = 0; n < value.length; n++) {
    try {
      const cut = parse(value.subarray(0, n));
      if (cut.format === "plaintext") continue; // authentic to etcd alone
      equal(`the object of the first ${n} bytes`, open(cut, key, v.path), hex(v.object)); // annotations are cut off
    } catch (wrong) {
      if (!(wrong instanceof Refused)) throw wrong;
    }
  }
}

function checkCiphertext(v) {
  const ciphertext = hex(v.ciphertext);
  if (v.refused !== undefined) return refuses("it", () => blob(ciphertext, v.api));
  equal("blob", blob(ciphertext, v.api), hex(v.blob));
}

let failed = false;
for (const dir of process.argv.slice(2)) {
  for (const name of readdirSync(dir).filter((n) => n.endsWith(".txt")).sort()) {
    const v = load(join(dir, name));
    try {
      if (v.value !== undefined) checkValue(v);
      else if (v.ciphertext !== undefined) checkCiphertext(v);
      else equal("key_id", keyIDOf(v), v.key_id);
      console.log(`ok ${basename(name)}`);
    } catch (wrong) {
      failed = true;
      console.log(`FAILED ${basename(name)}: ${wrong.message}`);
    }
  }
}
process.exit(failed ? 1 : 0);
