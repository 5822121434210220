/* The script of the benchmark's page. It reads its data from the page, builds elements and never
   HTML, and asks nothing of a network. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
};
const setOf = named => data.sets[Number(named.split(".")[0])];
const numberText = value => value === null || value === undefined ? "–"
  : String(Number(value.toPrecision(3))).replace("-", "−");

/* Playing. The prefix is in two parts, so that a search of the page finds no prefix without a film. */
const FILM = "data:" + "video/mp4;base64,";
const source = named => {
  const inline = document.querySelector(`video[data-own="${named}"]`);
  const kept = (data.media[named] || {}).video;
  return inline ? inline.src : kept ? `${FILM}${kept}` : "";
};
const paused = () => $("pause") && $("pause").getAttribute("aria-pressed") === "true";
const slow = () => $("slow") && $("slow").getAttribute("aria-pressed") === "true";
const start = clip => {
  if (!clip.src) { clip.preload = "auto"; clip.src = source(clip.dataset.clip); }
  clip.playbackRate = slow() ? 0.25 : 1;
  if (!paused()) clip.play().catch(() => {});
};
const shown = () => [...document.querySelectorAll("video")].filter(clip => !clip.closest("details:not([open])"));
const begin = () => shown().forEach(start);
const press = (id, act) => $(id) && $(id).addEventListener("click", event => {
  const on = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", on);
  act(on);
});
press("pause", on => shown().forEach(clip => on ? clip.pause() : start(clip)));
press("slow", () => shown().forEach(clip => { clip.currentTime = 0; clip.playbackRate = slow() ? 0.25 : 1; }));
document.querySelectorAll("details.fold").forEach(fold => fold.addEventListener("toggle", () =>
  fold.querySelectorAll("video").forEach(clip => fold.open ? start(clip) : clip.pause())));

/* Charts in the form that charts.html draws them. */
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
};
const chart = (lines, frames) => {
  const known = lines.flatMap(line => line.y).filter(value => value !== null);
  if (!known.length) return null;
  let low = Math.min(...known), high = Math.max(...known);
  if (low === high) { low = Math.min(0, 2 * low); high = Math.max(0, 2 * high) || (low === 0 ? 1 : 0); }
  const drawn = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  lines.forEach(line => {
    let path = "", pen = "M";
    line.y.forEach((value, t) => {
      if (value === null) { pen = "M"; return; }
      const x = 100 * (t + 0.5) / line.y.length, y = 100 - 100 * (value - low) / (high - low);
      path += `${pen}${x.toFixed(2)},${y.toFixed(2)}`;
      pen = "L";
    });
    drawn.append(svg("path", { class: `line ${line.hue}`, d: path }));
  });
  const plot = make("div", { className: "plot" });
  plot.append(drawn);
  return make("div", { className: "chart" }, make("span", { className: "top", textContent: numberText(high) }),
    make("span", { className: "bottom", textContent: numberText(low) }), plot,
    make("span", { className: "from", textContent: "0" }),
    make("span", { className: "to", textContent: `frame ${frames - 1}` }));
};

/* One case frame by frame, in the form of frames.html. */
const keyOf = named => make("i", { className: `key ${setOf(named).hue}` });
const pictures = (named, name) => {
  const media = data.media[named] || {}, found = name === "film" ? media.film : (media.maps || {})[name];
  if (!found) return null;
  const row = found.map((jpeg, i) => {
    const title = `${data.names[name]}, frame ${media.at[i]}`;
    return jpeg ? make("img", { alt: title, title, src: `data:image/jpeg;base64,${jpeg}` })
                : make("i", { className: "none", title: `${title}: no next frame to compare with` });
  });
  return make("div", { className: "lane" }, make("div", { className: "name", textContent: data.names[name] }),
    make("div", { className: "track" }, make("div", { className: "frames" }, ...row)));
};
const playerOf = named => {
  const media = data.media[named] || {}, small = data.clips[named].small ? " pixels" : "";
  const still = media.image && `data:image/jpeg;base64,${media.image}`;
  if (still) return make("img", { className: `still${small}`, alt: "", src: still });
  if (!source(named)) {
    return make("div", { className: "missing", textContent: media.why || "not among the clips kept on this page" });
  }
  const clip = make("video", { className: `clip${small}`, loop: true, muted: true, playsInline: true });
  clip.dataset.clip = named;
  return clip;
};
const strips = named => {
  const rows = Object.keys(data.names).map(name => pictures(named, name)).filter(row => row);
  const lanes = rows.length ? make("div", { className: "lanes" }, ...rows,
    make("div", { className: "rules" }, make("u", { className: "playhead" }))) : null;
  return make("div", { className: "timeline" }, make("figure", {}, playerOf(named),
    make("figcaption", {}, make("span", {}, keyOf(named), setOf(named).name)),
    make("div", { className: "soft file", textContent: data.clips[named].path })), lanes);
};
const cardOf = (one, at) => {
  const dim = data.dims[at], clips = one.clips.map(named => [named, data.clips[named]]);
  const values = clips.map(([named, clip]) => make("span", {}, keyOf(named), numberText(clip.value[at])));
  const lines = clips.filter(([, clip]) => clip.curve[at])
    .map(([named, clip]) => ({ y: clip.curve[at], hue: setOf(named).hue }));
  const why = clips.map(([, clip]) => (clip.why || {})[at]).filter(reason => reason)[0];
  const frames = Math.max(...clips.map(([, clip]) => clip.frames));
  const note = textContent => make("p", { className: "note", textContent });
  const drawn = chart(lines, frames) || (why ? null : note("One number a clip."));
  const mark = dim.trained ? make("sup", { textContent: "†", title: "was a training reward" }) : null;
  return make("div", { className: "card" }, make("div", { className: "head2" }, make("h3", {}, dim.name, mark),
    make("span", { className: "told" }, ...values)), drawn, why ? note(why) : null);
};
const fileOf = named => data.clips[named].path.split("/").pop();
const titleOf = one => one.prompt || [...new Set(one.clips.map(fileOf))].join(" · ");
const givenOf = ([named, words]) => make("figure", { className: "given" }, named ? make("img", {
  alt: "the image that was given", src: `data:image/jpeg;base64,${data.media[named].given.picture}` }) : null,
  make("figcaption", { textContent: `given ${words}` }));
const follow = () => document.querySelectorAll("#looked .timeline").forEach(row => {
  const clip = row.querySelector("video"), head = row.querySelector(".playhead"), lanes = row.querySelector(".lanes");
  if (!clip || !head) return;
  const covers = (data.media[clip.dataset.clip] || {}).covers || 1;
  const move = () => {
    if (!clip.isConnected) return;
    head.style.left = `${100 * covers * clip.currentTime / (clip.duration || 1)}%`;
    requestAnimationFrame(move);
  };
  lanes.addEventListener("pointermove", event => {
    const box = lanes.querySelector(".rules").getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width / covers;
    if (at < 0 || at >= 1 || !clip.duration) return;
    clip.pause();
    clip.currentTime = at * clip.duration;
  });
  lanes.addEventListener("pointerleave", () => paused() || start(clip));
  move();
});
const show = i => {
  const one = data.cases[i];
  if (!one) return;
  const title = make("span", { className: "asked", dir: "auto", textContent: titleOf(one) });
  $("looked").replaceChildren(make("div", { className: "card" }, make("h3", {}, title), ...one.given.map(givenOf),
    ...one.clips.map(strips)),
    make("div", { className: "grid" }, ...data.dims.map((_, at) => cardOf(one, at))));
  $("pick").value = String(i);
  begin();
  follow();
};
const gap = (one, at) => {
  const values = one.clips.map(named => data.clips[named].value[at]);
  if (data.sets.length === 1) return values[0];
  const [first, last] = [values[0], values[values.length - 1]];
  return values.length < 2 || first === null || last === null ? null : last - first;
};
const sorted = at => data.cases.map((one, i) => [i, at < 0 ? i : gap(one, at)])
  .sort((a, b) => (a[1] === null) - (b[1] === null) || a[1] - b[1] || a[0] - b[0]);
const fill = at => $("pick").replaceChildren(...sorted(at).map(([i, value], rank) => {
  const title = titleOf(data.cases[i]), brief = title.length > 70 ? title.slice(0, 69) + "…" : title;
  return make("option", { value: String(i), textContent: `${rank + 1}. ${brief}${at < 0 ? "" : ` (${numberText(value)})`}` });
}));
if ($("look")) {
  const first = data.sets[0].name, last = data.sets[data.sets.length - 1].name;
  const word = name => data.sets.length === 1 ? `worst first: ${name}` : `${last} behind ${first} first: ${name}`;
  $("order").append(make("option", { value: "-1", textContent: "as in the files" }),
    ...data.dims.map((dim, at) => make("option", { value: String(at), textContent: word(dim.name) })));
  $("order").addEventListener("change", () => { fill(Number($("order").value)); show(Number($("pick").value)); });
  $("pick").addEventListener("change", () => show(Number($("pick").value)));
  const step = by => {
    const pick = $("pick");
    pick.selectedIndex = (pick.selectedIndex + by + pick.options.length) % pick.options.length;
    show(Number(pick.value));
  };
  $("back").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  document.querySelector(".pick").hidden = false;
  fill(-1);
  const at = named => data.cases.findIndex(one => one.clips.includes(named));
  $("pick").value = String(at($("look").dataset.case));
  document.querySelectorAll("a.look").forEach(link =>
    link.addEventListener("click", () => show(at(link.dataset.case))));
  follow();
}

/* The buttons that copy a table. */
document.querySelectorAll("button[data-copy]").forEach(button => button.addEventListener("click", async () => {
  const text = $(button.dataset.copy);
  const copying = navigator.clipboard ? navigator.clipboard.writeText(text.textContent) : Promise.reject();
  const done = await copying.then(() => true, () => false);
  if (!done) {
    getSelection().selectAllChildren(text);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(fold => {
  fold.removeAttribute("name");
  fold.open = true;
}));
if (matchMedia("(prefers-reduced-motion: reduce)").matches && $("pause")) $("pause").click();
begin();
