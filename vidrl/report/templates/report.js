/* The script of a run's page: it plays the clips together and shows the playing frame. */
const clips = [...document.querySelectorAll("video")];
const press = (id, act) => document.getElementById(id)?.addEventListener("click", event => {
  const on = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", on);
  act(on);
});
const restart = () => clips.forEach(clip => { clip.currentTime = 0; });
press("pause", on => clips.forEach(clip => on ? clip.pause() : clip.play()));
press("slow", on => { clips.forEach(clip => { clip.playbackRate = on ? 0.25 : 1; }); restart(); });
/* A reader who asked for less motion gets paused clips. The others start together, once loaded. */
if (matchMedia("(prefers-reduced-motion: reduce)").matches) document.getElementById("pause")?.click();
else setTimeout(restart, 300);
/* In a card with a time axis a line follows the playing clip, and the pointer holds a frame. */
document.querySelectorAll(".card").forEach(card => {
  const clip = card.querySelector("video"), heads = [...card.querySelectorAll(".playhead")];
  if (!clip || !heads.length) return;
  const stopped = () => document.getElementById("pause")?.getAttribute("aria-pressed") === "true";
  const move = () => {
    heads.forEach(head => { head.style.left = `${100 * clip.currentTime / (clip.duration || 1)}%`; });
    requestAnimationFrame(move);
  };
  const hold = event => {
    const box = event.currentTarget.querySelector(".rules").getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    if (at < 0 || at >= 1 || !clip.duration) return;
    clip.pause();
    clip.currentTime = at * clip.duration;
  };
  heads.map(head => head.closest(".lanes")).forEach(lanes => {
    lanes.addEventListener("pointermove", hold);
    lanes.addEventListener("pointerleave", () => stopped() || clip.play());
  });
  move();
});
