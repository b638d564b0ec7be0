// What to type elsewhere to get the same file: for a shell with curl, for Python, for the command line.

// A word for a POSIX shell, quoted where it must be.
const shell = (word) => (/^[\w.,:/=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
const local = (name) => (name.startsWith("-") ? `./${name}` : name); // else it would be an option
const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";
const number = (text) => /^-?\d+(\.\d+)?$/.test(text);

// JSON's text is Python's as well.
const python = (text) => (text === "true" ? "True" : text === "false" ? "False" : number(text) ? text : JSON.stringify(text));

const OPTIONS = { codec: "--codec", quality: "-q", effort: "-e", lossless: "--lossless" };

// Return the text for `kind`: "curl", "python" or "cli". `secret` says whether the service is asked with a key.
// `ending` is that of the decoded file, `job` says that the codec's encodings are jobs.
export function textFor(kind, { name, query, service, secret, ending = "png", job = false }) {
  const picture = local(name);
  const [stream, back] = [`${stem(picture)}.lcn`, `${stem(picture)}-decoded.${ending}`];
  const asked = { picture, stream, back, query, service: service.replace(/\/$/, ""), secret, job };
  return { curl, python: pythonText, cli }[kind](asked);
}

function curl({ picture, stream, back, query, service, secret, job }) {
  const key = secret ? ` -H "Authorization: Bearer $API_KEY"` : "";
  const ask = (file, path, out) => `curl --fail-with-body${key} --data-binary ${shell(`@${file}`)} \\\n  ${shell(service + path)} -o ${shell(out)}`;
  const encode = job ? curlJob : (path) => ask(picture, path, stream);
  return `${encode(`/v1/encode?${new URLSearchParams(query)}`, { picture, stream, service, key })}\n${ask(stream, "/v1/decode", back)}\n`;
}

// Submit, wait for as long as it takes, fetch.
function curlJob(path, { picture, stream, service, key }) {
  const submit = `curl -sS --fail-with-body${key} -H 'Prefer: respond-async' -o /dev/null -w '%header{location}'`;
  return `job=${shell(service)}$(${submit} \\
  --data-binary ${shell(`@${picture}`)} ${shell(service + path)})
while curl -sS${key} "$job?wait=30" | grep -Eq '"state": ?"(queued|running)"'; do :; done
curl --fail-with-body${key} "$job/result" -o ${shell(stream)}`;
}

function pythonText({ picture, stream, back, query, service, secret, job }) {
  const settings = Object.entries(query).map(([name, value]) => `, ${name}=${name === "codec" ? JSON.stringify(value) : python(value)}`);
  const key = secret ? `, api_key=os.environ["API_KEY"]` : "";
  return `${secret ? "import os\n" : ""}from pathlib import Path

import laconic

with laconic.Client(${JSON.stringify(service)}${key}) as client:
    stream = client.${job ? "submit" : "encode"}(${JSON.stringify(picture)}${settings.join("")})${job ? ".result()" : ""}
    Path(${JSON.stringify(stream)}).write_bytes(stream)
    client.decode(stream).save(${JSON.stringify(back)})
`;
}

function cli({ picture, stream, back, query }) {
  const options = Object.entries(query).map(([name, value]) => {
    if (name.startsWith("target_")) return `--${name.replace("_", "-")} ${value}`;
    if (name === "lossless") return value === "true" ? OPTIONS.lossless : "";
    return name in OPTIONS ? `${OPTIONS[name]} ${shell(value)}` : `--set ${shell(`${name}=${value}`)}`;
  });
  const words = ["laconic encode", shell(picture), ...options.filter(Boolean), "-o", shell(stream)];
  return `${words.join(" ")}\nlaconic decode ${shell(stream)} -o ${shell(back)}\n`;
}
