// The page of `vidrl label`: shows a task, collects its answers, and sends them.

import { Clip, Player, SPEEDS, ZOOMS } from "./player.js";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (name) => document.getElementById(name);
const LETTERS = "ABCDEFGH";
const MARK_KEYS = ["q", "w", "e", "r", "t"];
const LEAST_MARK = 0.08; // seconds; a shorter drag is a press that seeks
const RETRY = 2000; // milliseconds after which an answer is sent again
const PAIR = [
  ["A", "A", "1"],
  ["B", "B", "2"],
  ["tie", "Tie", "3"],
  ["bad", "Both bad", "4"],
];

const player = new Player(drawTime);
const loaded = new Map(); // clips by name
let state = null; // of the server: tasks, progress
let task = null;
let views = [];
let given = {};
let marks = []; // {clip, begin, end, tags}
let chosen = null; // the mark that tags belong to
let pending = null; // a mark whose end the keyboard has not set yet
let begun = 0;
let busy = false;
let rested = 0;
let playable = false; // all clips of the task are loaded: only then can it be answered
let editing = null; // after an undo: the number of the question in the frame; nothing is sent by itself

// --- small helpers

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function say(text) {
  $("say").textContent = text;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

const named = (clip) => (data.mode === "points" ? "this clip" : LETTERS[clip]);
const axes = () => data.axes.filter((axis) => axis.name !== "prompt" || task.prompt);
const current = () => axes()[editing ?? axes().findIndex((axis) => !complete(axis))] ?? axes().at(-1);
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const ITEM = { pairs: "pair", points: "clip", ranking: "ranking" }[data.mode];

function complete(axis) {
  const value = given[axis.name];
  return data.mode === "ranking" ? Boolean(value) && value.every(Boolean) : value !== undefined;
}

// --- the server

async function ask(path, sent) {
  const options = sent && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(sent) };
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      trouble("The server does not answer. Your answer is kept on this page and is sent again until the server has it.");
      await new Promise((resolve) => setTimeout(resolve, RETRY));
      continue;
    }
    const found = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
    trouble(answer.ok ? "" : found.error);
    return answer.ok ? found : null;
  }
}

// Run one request at a time: a second press while the first is under way does nothing.
async function once(path, sent) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    const found = await ask(path, sent);
    if (found) await take(found);
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

async function take(found) {
  state = found;
  drawProgress();
  const next = state.tasks[0] ?? null;
  $("main").hidden = !next;
  $("done").hidden = Boolean(next);
  if (!next) return finish();
  for (const name of state.tasks.flatMap((one) => one.clips)) {
    if (loaded.get(name)?.failed ?? true) loaded.set(name, new Clip(name));
  }
  task = next;
  begin();
  forget();
}

function forget() {
  const kept = new Set(state.tasks.flatMap((one) => one.clips));
  for (const [name, clip] of loaded) {
    if (!kept.has(name)) {
      clip.close();
      loaded.delete(name);
    }
  }
}

function finish() {
  player.views = [];
  const { done, skipped } = state.progress;
  const and = skipped ? ` and skipped ${counted(skipped, ITEM)}` : "";
  const left = state.vanished ? ` ${counted(state.vanished, "clip")} could not be shown and ${state.vanished === 1 ? "was" : "were"} left out.` : "";
  $("summary").textContent = `You gave ${counted(done, "answer")}${and}.${left} You may close this page.`;
  $("undo_last").hidden = !(done + skipped);
}

// --- a task

async function begin() {
  const mine = task;
  given = { ...task.given }; // empty, or an answer that was taken back
  marks = task.marks.map((mark) => ({ ...mark }));
  editing = Object.keys(given).length ? 0 : null;
  chosen = pending = null;
  tied = false;
  player.views = [];
  $("prompt").textContent = task.prompt;
  drawClips();
  setPlayable(false);
  const shown = await Promise.all(views.map(showWhenLoaded));
  if (task !== mine || !shown.every(Boolean)) return;
  player.show(views);
  drawMarks();
  setPlayable(true);
  begun = performance.now();
  say(`${editing === null ? "New clips." : "Your answers are filled in: change them, then send them."} ${current().question}`);
}

// Take the words "Loading" away when a clip can play, or say why it cannot.
async function showWhenLoaded({ clip, wait, note }, i) {
  try {
    await clip.ready;
    wait.hidden = true;
    note.textContent = clip.about.note; // where the clip is shown smaller or shorter than it is
    note.hidden = !clip.about.note;
    return true;
  } catch (error) {
    wait.textContent = "Not loaded";
    trouble(`Clip ${named(i)}: ${error.message} Skip (s), or load the page again.`);
    return false;
  }
}

// Answers, marks and the controls are off until all clips can play.
function setPlayable(now) {
  playable = now;
  for (const control of $("controls").querySelectorAll("button, input")) control.disabled = !now;
  drawAnswers();
}

function drawClips() {
  views = task.clips.map((name, i) => {
    const canvas = make("canvas", { role: "img", "aria-label": `Clip ${named(i)}` });
    const place = make("i", { hidden: "" });
    const wait = make("p", { class: "wait" }, "Loading …");
    const stage = make("div", { class: "stage" }, canvas, ...(data.mode === "points" ? [] : [make("b", {}, LETTERS[i])]), place, wait);
    const note = make("p", { class: "note soft", hidden: "" });
    const axis = make("div", { class: "axis", role: "group", "aria-label": `Time axis of ${named(i)}: drag where it goes wrong` });
    const list = make("ul", { class: "marks", "aria-label": `Marks of ${named(i)}` });
    stage.addEventListener("pointerdown", (event) => movePicture(event, stage));
    axis.addEventListener("pointerdown", (event) => dragMark(event, i));
    return { clip: loaded.get(name), canvas, stage, place, wait, note, axis, list, figure: make("figure", {}, stage, note, axis, list) };
  });
  $("clips").replaceChildren(...views.map(({ figure }) => figure));
  drawMarks();
}

function drawAnswers() {
  const drawn = { pairs: pairChoices, points: pointChoices, ranking: rankChoices }[data.mode];
  $("answers").replaceChildren(
    ...axes().map((axis, i) => {
      const count = make("span", { class: "soft" }, axes().length > 1 ? ` ${i + 1}/${axes().length}` : "");
      const legend = make("legend", {}, ...(i ? [againButton(i - 1)] : []), axis.question, count);
      const set = make("fieldset", {}, legend, make("div", { class: "choices" }, ...drawn(axis)));
      set.classList.toggle("current", axis === current());
      set.disabled = !playable;
      return set;
    }),
  );
  $("send").disabled = !sendable();
  if (data.mode === "ranking") drawPlaces();
}

// On a phone, where one question is shown at a time: back to the question before.
function againButton(i) {
  const back = () => {
    if (editing === null) delete given[axes()[i].name];
    else editing = i;
    drawAnswers();
  };
  return make("button", { type: "button", class: "again", "aria-label": "Back to the question before", onclick: back }, "‹");
}

function choice(label, key, pressed, name, act) {
  const shownKey = label.startsWith(key) ? [] : [" ", make("kbd", {}, key)]; // points are their own keys
  return make("button", { type: "button", "aria-pressed": String(pressed), "aria-label": name, onclick: act }, label, ...shownKey);
}

const pairChoices = (axis) =>
  PAIR.map(([value, label, key]) => choice(label, key, given[axis.name] === value, label, () => answer(axis, value)));

function pointChoices(axis) {
  const points = Array.from({ length: axis.high - axis.low + 1 }, (_, i) => axis.low + i);
  const ends = { [axis.low]: " worst", [axis.high]: " best" };
  return points.map((n) => choice(`${n}${ends[n] ?? ""}`, String(n), given[axis.name] === n, `${n}${ends[n] ?? ""}`, () => answer(axis, n)));
}

const rankChoices = (axis) => [
  ...task.clips.map((_, i) => {
    const place = given[axis.name]?.[i];
    return choice(`${LETTERS[i]}${place ? `: ${place}` : ""}`, String(i + 1), Boolean(place), `${LETTERS[i]}, place ${place || "none"}`, () => rank(axis, i));
  }),
  tieButton(axis),
];

// Tie is on: the next clip that is pressed gets the place of the clip that was pressed last.
function tieButton(axis) {
  const button = choice("Tie next", "t", tied, "The next clip ties with the last one", tie);
  button.disabled = !canTie(axis);
  button.classList.add("tie");
  return button;
}

const canTie = (axis) => Boolean(given[axis.name]?.some(Boolean)) && !complete(axis);

function tie() {
  if (!canTie(current())) return;
  tied = !tied;
  drawAnswers();
  say(tied ? "The next clip ties with the last one." : "The next clip gets a place of its own.");
}

function answer(axis, value) {
  given[axis.name] = value;
  if (editing !== null) editing = Math.min(axes().indexOf(axis) + 1, axes().length - 1);
  drawAnswers();
  if (editing === null && axes().every(complete)) send();
  else say(current().question);
}

// The clips are pressed from the best to the worst; a second press takes the place away.
let tied = false;
function rank(axis, clip) {
  const places = [...(given[axis.name] ?? task.clips.map(() => 0))];
  const most = Math.max(...places);
  const placed = places.filter(Boolean).length;
  places[clip] = places[clip] ? 0 : tied && most ? most : placed + 1;
  tied = false;
  // a place is one more than the number of better clips, so that none stays empty
  given[axis.name] = places.map((own) => own && 1 + places.filter((other) => other && other < own).length);
  drawAnswers();
  if (editing === null && axes().every(complete)) send();
}

function drawPlaces() {
  const places = given[current().name] ?? [];
  views.forEach(({ place }, i) => {
    place.textContent = places[i] ? `place ${places[i]}` : "";
    place.hidden = !places[i];
  });
}

const sendable = () => playable && (data.mode === "ranking" ? axes().every(complete) : Object.keys(given).length > 0);
const spent = () => (playable ? (performance.now() - begun) / 1000 : 0);

function send() {
  if (busy || !sendable()) return;
  const receipts = views.map(({ clip }) => clip.receipt);
  once("/api/answer", { task: task.task, given, faults: marks, seconds: spent(), receipts });
}

function skip() {
  // marks are sent with the receipts of the clips that they are about, as answers are
  const shown = playable ? { faults: marks, receipts: views.map(({ clip }) => clip.receipt) } : {};
  if (!busy) once("/api/answer", { task: task.task, given: {}, skip: true, seconds: spent(), ...shown });
}

function undo() {
  if (!busy) once("/api/undo", { click: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}` });
}

// --- marks on the time axis

const fraction = (event, element) => {
  const box = element.getBoundingClientRect();
  return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
};

function dragMark(event, clip) {
  const { axis } = views[clip];
  if (!playable) return;
  const { seconds } = views[clip].clip.about;
  const from = fraction(event, axis) * player.seconds;
  const mark = { clip, begin: from, end: from, tags: [] };
  axis.setPointerCapture(event.pointerId);
  player.seek(from);
  const move = (moved) => {
    const to = fraction(moved, axis) * player.seconds;
    [mark.begin, mark.end] = [Math.min(from, to, seconds), Math.min(Math.max(from, to), seconds)];
    player.seek(to);
    if (mark.end - mark.begin >= LEAST_MARK && !marks.includes(mark)) marks.push(mark);
    drawMarks();
  };
  const stop = () => {
    axis.removeEventListener("pointermove", move);
    const pressed = marks.find((one) => one.clip === clip && one.begin <= from && from <= one.end);
    if (marks.includes(mark)) choose(mark);
    else if (pressed) choose(pressed); // a press without a drag selects the mark below it
  };
  axis.addEventListener("pointermove", move);
  axis.addEventListener("pointerup", stop, { once: true });
  axis.addEventListener("pointercancel", stop, { once: true });
}

function keyMark(clip) {
  if (!views[clip]) return;
  const end = Math.min(player.time, views[clip].clip.about.seconds);
  if (pending?.clip !== clip) {
    pending = { clip, begin: end, end, tags: [] };
    return say(`A mark of ${named(clip)} begins at ${end.toFixed(2)} seconds.`);
  }
  const { begin } = pending;
  const mark = { clip, begin: Math.min(begin, end), end: Math.max(begin, end), tags: [] };
  pending = null;
  marks.push(mark);
  choose(mark);
}

function choose(mark) {
  chosen = mark;
  drawMarks();
  if (mark) say(`Mark of ${named(mark.clip)}, ${span(mark)}. Say why with a tag.`);
}

function remove() {
  marks = marks.filter((mark) => mark !== chosen);
  choose(null);
}

const span = ({ begin, end }) => `${begin.toFixed(2)} to ${end.toFixed(2)} s`;

function drawMarks() {
  views.forEach((view, i) => {
    const own = marks.filter(({ clip }) => clip === i);
    const { seconds } = player;
    const bars = own.map((mark) => {
      const bar = make("div", { class: `mark${mark === chosen ? " chosen" : ""}` });
      bar.style.left = `${(100 * mark.begin) / seconds}%`;
      bar.style.width = `${(100 * (mark.end - mark.begin)) / seconds}%`;
      return bar;
    });
    view.head = make("div", { class: "head" });
    const hint = own.length ? [] : [make("span", { class: "hint" }, "drag where it goes wrong")];
    view.axis.replaceChildren(...hint, ...bars, view.head);
    view.list.replaceChildren(
      ...own.map((mark) => {
        const pressed = String(mark === chosen);
        const text = [span(mark), ...mark.tags].join(" · ");
        return make("li", {}, make("button", { type: "button", "aria-pressed": pressed, onclick: () => choose(mark === chosen ? null : mark) }, text));
      }),
    );
  });
  drawTags();
}

// One line of tags for the chosen mark, in a place of its own: no mark moves the questions.
function drawTags() {
  $("tags").hidden = !chosen;
  document.body.classList.toggle("tagging", Boolean(chosen));
  if (!chosen) return;
  const title = make("span", { class: "soft" }, `${data.mode === "points" ? "" : `${LETTERS[chosen.clip]} `}${span(chosen)}`);
  const ends = [
    make("button", { type: "button", class: "ends", onclick: () => choose(null) }, "Done"),
    make("button", { type: "button", class: "ends", onclick: remove }, "✕ Remove mark"),
  ];
  $("tags").replaceChildren(title, ...data.tags.map(tagButton), ...ends);
}

function tagButton(tag) {
  const has = chosen?.tags.includes(tag) ?? false;
  const toggle = () => {
    chosen.tags = has ? chosen.tags.filter((one) => one !== tag) : [...chosen.tags, tag];
    drawMarks();
    $("tags").querySelectorAll("button")[data.tags.indexOf(tag)].focus();
  };
  return make("button", { type: "button", "aria-pressed": String(has), onclick: toggle }, tag);
}

// --- playing

function drawTime() {
  const { seconds, time } = player;
  $("seek").max = seconds;
  $("seek").value = time;
  $("time").textContent = `${time.toFixed(2)} s`;
  $("play").textContent = player.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", player.playing ? "Stop" : "Play");
  for (const view of views) if (view.head) view.head.style.left = `${(100 * time) / seconds}%`;
}

function faster(step) {
  player.speed = SPEEDS[Math.min(Math.max(SPEEDS.indexOf(player.speed) + step, 0), SPEEDS.length - 1)];
  drawSettings();
}

function drawSettings() {
  const speed = { 0.125: "⅛×", 0.25: "¼×", 0.5: "½×" }[player.speed] ?? `${player.speed}×`;
  $("speed").textContent = speed;
  $("speed").setAttribute("aria-label", `Speed ${player.speed}`);
  $("zoom").textContent = `⌕ ${player.zoom}×`;
  $("zoom").setAttribute("aria-label", `Zoom ${player.zoom}`);
  for (const { stage } of views) stage.classList.toggle("zoomed", player.zoom > 1);
}

function zoom() {
  player.setZoom(ZOOMS[(ZOOMS.indexOf(player.zoom) + 1) % ZOOMS.length]);
  drawSettings();
}

function movePicture(event, stage) {
  if (player.zoom === 1) return;
  stage.setPointerCapture(event.pointerId);
  const box = stage.getBoundingClientRect();
  const [x, y] = player.centre;
  const move = (moved) =>
    player.moveTo(x - (moved.clientX - event.clientX) / box.width / player.zoom, y - (moved.clientY - event.clientY) / box.height / player.zoom);
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", move), { once: true });
}

// --- progress

function drawProgress() {
  const { done, goal, seconds, rest, sitting } = state.progress;
  const ended = !state.tasks.length; // nothing is left: skipped items do not come again
  $("bar").max = ended ? 1 : Math.max(goal, 1);
  $("bar").value = ended ? 1 : done;
  $("count").textContent = ended ? counted(done, "answer") : `${done} of ${goal}`;
  const left = Math.ceil((Math.max(goal - done, 1) * seconds) / 60);
  $("pace").textContent = seconds ? `· ${Math.round(seconds)} s each${ended ? "" : ` · about ${left} min left`}` : "";
  if (sitting < rested) rested = 0;
  $("rest").hidden = !(rest && sitting - rested > 1200);
}

// --- keys

const ALWAYS = ["s", "u"]; // keys that need no clips

const digit = (key) => {
  const axis = current();
  const number = Number(key);
  if (data.mode === "pairs" && PAIR[number - 1]) answer(axis, PAIR[number - 1][0]);
  else if (data.mode === "points" && number >= axis.low && number <= axis.high) answer(axis, number);
  else if (data.mode === "ranking" && task.clips[number - 1]) rank(axis, number - 1);
};

const KEYS = {
  " ": () => (player.playing = !player.playing),
  ArrowLeft: (event) => player.step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => player.step(event.shiftKey ? 10 : 1),
  ArrowUp: () => faster(1),
  ArrowDown: () => faster(-1),
  z: zoom,
  s: skip,
  u: undo,
  Enter: send,
  Delete: remove,
  Backspace: remove,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if ($("help").open) return ["?", "Escape"].includes(event.key) ? $("help").close() : undefined;
  if (event.key === "?") return $("help").showModal();
  if ($("main").hidden) return event.key === "u" ? undo() : undefined;
  const onButton = event.target.closest?.("button");
  if (onButton && (event.key === " " || event.key === "Enter")) return undefined; // presses the button
  if (event.target.id === "seek" && event.key.startsWith("Arrow")) return undefined;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const clip = MARK_KEYS.indexOf(key);
  if (busy || event.repeat && !key.startsWith("Arrow")) return undefined;
  if (!playable && !ALWAYS.includes(key)) return undefined;
  if (KEYS[key]) KEYS[key](event);
  else if (/^[0-9]$/.test(key)) digit(key);
  else if (data.mode === "ranking" && key === "t") tie();
  else if (clip >= 0 && clip < views.length) keyMark(clip);
  else return undefined;
  event.preventDefault();
  return undefined;
});

const HELP = {
  pairs: [["1 2", "A or B is better, for the question in the frame"], ["3 4", "a tie, or both are bad"]],
  points: [["1 … 9", "points for the question in the frame, more is better"]],
  ranking: [["1 2 …", "the clips from the best to the worst; again takes a place away"], ["t", "the next clip ties with the last one"]],
};
$("keys").append(
  ...HELP[data.mode].map(([keys, words]) =>
    make("tr", {}, make("th", { scope: "row" }, ...keys.split(" ").flatMap((key) => [make("kbd", {}, key), " "])), make("td", {}, words)),
  ),
);

$("ask").addEventListener("click", () => $("help").showModal());
$("play").addEventListener("click", KEYS[" "]);
$("back").addEventListener("click", () => player.step(-1));
$("next").addEventListener("click", () => player.step(1));
$("seek").addEventListener("input", () => player.seek(Number($("seek").value)));
$("speed").addEventListener("click", () => {
  player.speed = SPEEDS[(SPEEDS.indexOf(player.speed) + SPEEDS.length - 1) % SPEEDS.length];
  drawSettings();
});
$("zoom").addEventListener("click", zoom);
$("undo").addEventListener("click", undo);
$("undo_last").addEventListener("click", undo);
$("skip").addEventListener("click", skip);
$("send").addEventListener("click", send);
$("rested").addEventListener("click", () => {
  rested = state.progress.sitting;
  $("rest").hidden = true;
});

document.body.style.setProperty("--questions", data.axes.length);
history.replaceState(null, "", "/"); // the token leaves the address, so that no screenshot shows it
once("/api/state");
