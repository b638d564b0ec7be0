// The two files that the page gives away: the stream, and what was decoded from it.

import { byId } from "./dom.js";

let urls = [];

// `ending` is that of the decoded file, where the file does not know it itself.
export function offerFiles(stem, ending, { stream, png, film, sound }) {
  withdrawFiles();
  const extension = film ? film.type.split("/")[1] : ending;
  const links = [["stream", stream, `${stem}.lcn`], ["picture", film ?? sound ?? png, `${stem}-decoded.${extension}`]];
  urls = links.map(([kind, blob, name]) => {
    const url = URL.createObjectURL(blob);
    Object.assign(byId(`download-${kind}`), { href: url, download: name }).removeAttribute("aria-disabled");
    return url;
  });
}

export function withdrawFiles() {
  urls.forEach((url) => URL.revokeObjectURL(url));
  for (const kind of ["stream", "picture"]) {
    byId(`download-${kind}`).removeAttribute("href");
    byId(`download-${kind}`).setAttribute("aria-disabled", "true");
  }
}
