// Draws clips frame by frame on one clock, so that all clips always show the same time.

const AHEAD = 12; // frames that are decoded before they are needed
const MEMORY = 192 * 2 ** 20; // bytes of decoded frames of one clip
export const SPEEDS = [0.125, 0.25, 0.5, 1, 2];
export const ZOOMS = [1, 2, 4];

// A clip's file of frames: four bytes of length, JSON, and the pictures one after the other.
export class Clip {
  constructor(name) {
    this.name = name;
    this.bitmaps = new Map();
    this.decoding = new Set();
    this.ready = this.load();
    this.failed = false;
    this.ready.catch(() => (this.failed = true)); // the page reports the error when it shows the clip
  }

  async load() {
    const answer = await fetch(`/clips/${this.name}`);
    if (!answer.ok) {
      const words = await answer.json().catch(() => ({ error: `The server could not send the clip (${answer.status}).` }));
      throw new Error(words.error);
    }
    this.receipt = answer.headers.get("x-receipt"); // goes back with the answer: the clip was shown
    const bytes = await answer.arrayBuffer();
    const length = new DataView(bytes).getUint32(0);
    this.about = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
    let at = 4 + length;
    this.pictures = this.about.sizes.map((size) => new Blob([new Uint8Array(bytes, (at += size) - size, size)], { type: this.about.type }));
    this.most = Math.max(2 * AHEAD, Math.floor(MEMORY / (4 * this.about.width * this.about.height)));
    await this.decode(0);
    return this;
  }

  // The number of the frame that is shown at a time in seconds; the last one stays.
  frameAt(time) {
    const { times } = this.about;
    let low = 0;
    let high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= time + 1e-6) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async decode(number) {
    if (this.bitmaps.has(number) || this.decoding.has(number)) return;
    this.decoding.add(number);
    try {
      this.bitmaps.set(number, await createImageBitmap(this.pictures[number]));
    } finally {
      this.decoding.delete(number);
    }
  }

  // Begin to decode the frames from a number on, and forget those that are farthest behind.
  want(number) {
    const count = this.pictures.length;
    for (let step = 0; step < Math.min(AHEAD, count); step += 1) {
      if (this.decoding.size < AHEAD) this.decode((number + step) % count);
    }
    for (const kept of this.bitmaps.keys()) {
      if (this.bitmaps.size <= this.most) break;
      if ((kept - number + count) % count > AHEAD) {
        this.bitmaps.get(kept).close();
        this.bitmaps.delete(kept);
      }
    }
  }

  close() {
    for (const bitmap of this.bitmaps.values()) bitmap.close();
    this.bitmaps.clear();
  }
}

export class Player {
  constructor(changed) {
    this.changed = changed; // called after each drawn frame
    this.views = [];
    this.time = 0;
    this.speed = 1;
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.playing = false;
    this.drawn = "";
    const tick = (now) => {
      this.advance((now - (this.last ?? now)) / 1000);
      this.last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  get seconds() {
    return Math.max(0, ...this.views.map(({ clip }) => clip.about.seconds));
  }

  // Show loaded clips, each on its canvas, from the start.
  show(views) {
    this.views = views;
    for (const { clip, canvas } of views) {
      canvas.width = clip.about.width;
      canvas.height = clip.about.height;
      canvas.parentElement.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
      canvas.classList.toggle("tiny", Math.max(canvas.width, canvas.height) <= 256);
    }
    this.time = 0;
    this.setZoom(1);
    this.playing = true;
  }

  advance(passed) {
    if (!this.views.length) return;
    // after a hidden tab or a stall the clock goes on from where it stood
    const step = this.playing && passed < 0.5 ? passed * this.speed : 0;
    const wanted = (this.time + step) % this.seconds;
    const ready = this.views.every(({ clip }) => {
      const number = clip.frameAt(wanted);
      clip.want(number);
      return clip.bitmaps.has(number);
    });
    // a clip that is not decoded in time stops the clock of all clips
    if (ready) this.time = wanted;
    this.draw();
  }

  draw() {
    const numbers = this.views.map(({ clip }) => clip.frameAt(this.time));
    const state = JSON.stringify([numbers, this.zoom, this.centre, this.views.map(({ clip }) => clip.name)]);
    if (state !== this.drawn && this.views.every(({ clip }, i) => clip.bitmaps.has(numbers[i]))) {
      this.views.forEach((view, i) => this.drawOne(view, numbers[i]));
      this.drawn = state;
    }
    this.changed();
  }

  drawOne({ clip, canvas }, number) {
    const { width, height } = clip.about;
    const context = canvas.getContext("2d");
    const [w, h] = [width / this.zoom, height / this.zoom];
    context.imageSmoothingEnabled = this.zoom === 1;
    const [x, y] = [this.centre[0] * width - w / 2, this.centre[1] * height - h / 2];
    context.drawImage(clip.bitmaps.get(number), x, y, w, h, 0, 0, width, height);
    canvas.dataset.frame = number;
  }

  // Stop and show a time; the clock waits until the frames of that time are decoded.
  seek(time) {
    this.playing = false;
    this.time = Math.min(Math.max(time, 0), Math.max(0, this.seconds - 1e-4));
    for (const { clip } of this.views) clip.want(clip.frameAt(this.time));
  }

  // Go to the next or previous time at which a frame of any clip begins.
  step(count) {
    const all = new Set(this.views.flatMap(({ clip }) => clip.about.times));
    const times = [...all].sort((a, b) => a - b);
    const now = times.filter((time) => time <= this.time + 1e-6).length - 1;
    this.seek(times[(((now + count) % times.length) + times.length) % times.length]);
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.moveTo(...(zoom === 1 ? [0.5, 0.5] : this.centre));
  }

  moveTo(x, y) {
    const half = 0.5 / this.zoom;
    this.centre = [x, y].map((value) => Math.min(Math.max(value, half), 1 - half));
  }
}
