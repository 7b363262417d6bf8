// The latent explorer and the map of rows: what can be moved, hovered and chosen. Data come from JSON in the page.
const explorers = {};

const shown = (value) => (Math.abs(value) < 0.005 ? 0 : value).toPrecision(3).replace("-", "\u2212");
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

// A picture of numbers, or a tile of a sprite, on a canvas of its own pixels.
const painter = (shape) => {
  const { height, width, channels, limits } = shape;
  const canvas = make("canvas", { width, height, className: "picture" });
  canvas.setAttribute("role", "img");
  const context = canvas.getContext("2d");
  return {
    node: canvas,
    numbers(values, words) {
      const image = context.createImageData(width, height);
      for (let i = 0; i < width * height; i++) {
        for (let c = 0; c < 3; c++) {
          const value = values[channels === 3 ? c * width * height + i : i];
          image.data[4 * i + c] = Math.round(255 * Math.min(Math.max((value - limits[0]) / (limits[1] - limits[0] || 1), 0), 1));
        }
        image.data[4 * i + 3] = 255;
      }
      context.putImageData(image, 0, 0);
      canvas.setAttribute("aria-label", words);
    },
    tile(sprite, at, across, words) {
      const draw = () => context.drawImage(sprite, (at % across) * width, Math.floor(at / across) * height, width, height, 0, 0, width, height);
      if (sprite.complete) draw();
      else sprite.addEventListener("load", draw);
      canvas.setAttribute("aria-label", words);
    },
  };
};

// A line for each column: its value, and where that is between the ends of the data.
const lines = (columns, caption) => {
  const body = make("tbody");
  const rows = columns.map(({ name }) => {
    const value = make("td", { className: "number" });
    const [from, now] = [make("i", { className: "from" }), make("i", { className: "now" })];
    body.append(make("tr", {}, make("th", { scope: "row", textContent: name }), value, make("td", {}, make("div", { className: "range" }, from, now))));
    return { value, from, now };
  });
  const head = make("tr", {}, ...["column", "mean", "within the data"].map((textContent) => make("th", { scope: "col", textContent })));
  const place = (column, value) => `${100 * Math.min(Math.max((value - column.low) / (column.high - column.low || 1), 0), 1)}%`;
  // Of categories the share of the likeliest; a table of steps knows the likeliest alone.
  const read = (column, values) => {
    if (!column.names) return [shown(values[column.at]), values[column.at]];
    if (!column.shares) return [column.names[values[column.at]] ?? "", null];
    const shares = values.slice(column.at, column.at + column.names.length);
    const best = shares.indexOf(Math.max(...shares));
    return [`${column.names[best]} ${Math.round(100 * shares[best])} %`, shares[best]];
  };
  return {
    node: make("table", { className: "lines" }, make("caption", { textContent: caption }), make("thead", {}, head), body),
    show(values, start) {
      columns.forEach((column, i) => {
        const [words, at] = read(column, values);
        const before = start ? read(column, start)[1] : null;
        rows[i].value.textContent = words;
        rows[i].now.hidden = at === null;
        rows[i].from.hidden = before === null;
        rows[i].now.style.left = place(column, at ?? 0);
        rows[i].from.style.left = place(column, before ?? 0);
      });
    },
  };
};

const explorer = (root, data) => {
  const decode = data.network && decoding.decoder(data.network);
  const rows = data.start && decoding.floats(data.start.means);
  const size = data.centre.length;
  const sprite = data.sprite && make("img", { src: data.sprite, alt: "" });
  const picture = data.picture ? painter(data.picture) : lines(data.columns, `Mean of every column given ${data.site}; grey: where it began`);
  const z = new Float64Array(size);
  const choice = data.network && data.network.choice;
  const level = choice && make("select", {}, ...choice.names.map((textContent, value) => make("option", { value, textContent })));
  let start = null;

  const show = (moved) => {
    const given = choice ? `${data.site}, ${choice.name}=${choice.names[level.value]}` : data.site;
    const words = moved === undefined ? `E[x|${given}] at the beginning` : `E[x|${given}] with ${data.names[moved]} at ${sliders[moved].value}`;
    if (decode) {
      const values = decode(z, choice && Number(level.value));
      if (data.picture) picture.numbers(values, words);
      else picture.show(values, (start ??= values));
      return;
    }
    const line = moved ?? 0;
    const step = Number(sliders[line].value);
    const nearest = data.steps.reduce((best, value, k) => (Math.abs(value - step) < Math.abs(data.steps[best] - step) ? k : best), 0);
    if (sprite) picture.tile(sprite, line * data.steps.length + nearest, data.steps.length, words);
    else picture.show(data.values[line][nearest], data.values[line][(data.steps.length - 1) / 2]);
  };
  const say = (k) => (outputs[k].textContent = Number(sliders[k].value).toFixed(2).replace("-", "\u2212"));
  const sliders = [];
  const outputs = [];
  const knobs = data.order.map((latent, k) => {
    const input = make("input", { type: "range", min: -data.span, max: data.span, step: decode ? 0.05 : data.steps[1] - data.steps[0], value: 0 });
    const output = make("output");
    input.oninput = () => {
      z[latent] = data.centre[latent] + Number(input.value) * data.spread[latent];
      if (!decode) sliders.forEach((other, j) => other !== input && ((other.value = 0), say(j)));
      say(k);
      show(k);
    };
    sliders.push(input);
    outputs.push(output);
    return make("label", {}, make("span", { textContent: data.names[k] }), input, output);
  });
  const begin = (values, now) => {
    z.set(values);
    start = null;
    if (choice && now !== undefined) level.value = now;
    data.order.forEach((latent, k) => {
      sliders[k].value = (z[latent] - data.centre[latent]) / data.spread[latent];
      say(k);
    });
    show();
  };
  const buttons = [];
  const row = (i) => rows.slice(i * size, (i + 1) * size);
  if (decode) {
    const chosen = make("select", {}, ...data.start.names.map((textContent, value) => make("option", { value, textContent })));
    const starting = () => begin(row(Number(chosen.value)), choice && data.start.levels[Number(chosen.value)]);
    chosen.onchange = starting;
    buttons.push(make("label", { className: "begin" }, "Begin at ", chosen));
    if (choice) {
      level.onchange = () => show();
      buttons.push(make("label", { className: "begin" }, `${choice.name} `, level));
    }
    buttons.push(make("button", { type: "button", textContent: "Mean of the prior", onclick: () => begin(data.centre) }));
    if (data.draws) {
      const draw = () => begin(data.centre.map((mean, i) => mean + data.spread[i] * normal()));
      buttons.push(make("button", { type: "button", textContent: "Draw from the prior", onclick: draw }));
    }
  }
  root.append(make("div", { className: "tools" }, ...buttons), make("div", { className: "explorer" }, picture.node, make("div", { className: "knobs" }, ...knobs)));
  if (decode) begin(row(0), choice && data.start.levels[0]);
  else (knobs.forEach((_, k) => say(k)), show());
  return { begin, decode, sliders, size };
};

const symbols = [
  (c, r) => c.arc(0, 0, r, 0, 7),
  (c, r) => c.rect(-r * 0.88, -r * 0.88, r * 1.76, r * 1.76),
  (c, r) => (c.moveTo(0, -r * 1.25), c.lineTo(r * 1.1, r * 0.75), c.lineTo(-r * 1.1, r * 0.75), c.closePath()),
  (c, r) => (c.moveTo(0, -r * 1.35), c.lineTo(r * 1.15, 0), c.lineTo(0, r * 1.35), c.lineTo(-r * 1.15, 0), c.closePath()),
  (c, r) => (c.moveTo(0, r * 1.25), c.lineTo(r * 1.1, -r * 0.75), c.lineTo(-r * 1.1, -r * 0.75), c.closePath()),
];

const map = (root, data) => {
  const count = data.x.length;
  const canvas = make("canvas", { className: "map" });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", data.words);
  const hidden = new Set();
  const sprite = data.sprite && make("img", { src: data.sprite, alt: "" });
  const tile = data.picture && painter(data.picture);
  const back = data.picture && data.means && painter(data.picture);
  const means = data.means && decoding.floats(data.means);
  const partner = () => explorers[data.site];
  const about = make("div", { className: "about" });
  about.setAttribute("aria-live", "polite");
  const name = (i) => data.names[i] + (data.labels && data.labels[i] >= 0 ? `, ${data.classes[data.labels[i]]}` : "");
  const step = make("input", { type: "range", min: 0, max: count - 1, value: 0 });
  const order = [...data.x.keys()].sort((a, b) => data.x[a] - data.x[b]);
  let [chosen, over] = [null, null];

  const frame = () => {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const [lowX, highX, lowY, highY] = [Math.min(...data.x), Math.max(...data.x), Math.min(...data.y), Math.max(...data.y)];
    const scale = Math.min((width - 30) / (highX - lowX || 1), (height - 30) / (highY - lowY || 1));
    const at = (i) => [width / 2 + (data.x[i] - (lowX + highX) / 2) * scale, height / 2 - (data.y[i] - (lowY + highY) / 2) * scale];
    return { width, height, at };
  };
  const visible = (i) => !data.labels || !hidden.has(data.labels[i]);
  const colour = (i) => (data.values ? `hsl(${250 - 210 * data.values[i]} 70% ${35 + 25 * data.values[i]}%)` : data.labels && data.labels[i] >= 0 ? data.colours[data.labels[i] % data.colours.length] : "#8a93a0");
  const shape = (i) => symbols[data.labels && data.labels[i] >= 0 ? data.labels[i] % symbols.length : 0];
  const draw = () => {
    const { width, height, at } = frame();
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const radius = Math.min(Math.max(70 / Math.sqrt(count), 2.2), 5);
    const dot = (i, r, ring) => {
      const [x, y] = at(i);
      context.save();
      context.translate(x, y);
      context.beginPath();
      shape(i)(context, r);
      context.fillStyle = colour(i);
      context.globalAlpha = ring ? 1 : 0.75;
      context.fill();
      if (ring) {
        [context.lineWidth, context.strokeStyle] = [2, "#1d2430"];
        context.stroke();
      }
      context.restore();
    };
    for (let i = 0; i < count; i++) if (visible(i)) dot(i, radius, false);
    for (const i of [chosen, over]) if (i !== null) dot(i, radius + 3, true);
  };

  const value = (column, number) => (number === null ? "missing" : column.names ? column.names[number] ?? number : shown(number));
  const tell = (i) => {
    const words = make("p", {}, make("strong", { textContent: name(i) }));
    for (const [what, numbers] of Object.entries(data.told)) words.append(`; ${what} ${numbers[i] === null ? "not finite" : shown(numbers[i])}`);
    const parts = [words];
    if (tile) {
      tile.tile(sprite, i, data.across, `The row ${name(i)}`);
      const pair = [make("figure", {}, tile.node, make("figcaption", { textContent: "the row" }))];
      if (back && partner()) {
        back.numbers(partner().decode(means.slice(i * partner().size, (i + 1) * partner().size), data.levels && data.levels[i]), `What the model makes of the latents of ${name(i)}`);
        pair.push(make("figure", {}, back.node, make("figcaption", { textContent: `mean given its ${data.site}` })));
      }
      parts.push(make("div", { className: "pair" }, ...pair));
    } else if (data.rows) {
      const list = make("dl");
      data.columns.forEach((column, k) => list.append(make("dt", { textContent: column.name }), make("dd", { textContent: value(column, data.rows[i][k]) })));
      parts.push(list);
    }
    if (means && partner() && i === chosen) {
      const go = () => (partner().begin(means.slice(i * partner().size, (i + 1) * partner().size), data.levels && data.levels[i]), document.getElementById(data.explorer).scrollIntoView());
      parts.push(make("button", { type: "button", textContent: "Move its latents above", onclick: go }));
    }
    about.replaceChildren(...parts);
  };
  const near = (event) => {
    const { at } = frame();
    const box = canvas.getBoundingClientRect();
    let [best, least] = [null, 16];
    for (let i = 0; i < count; i++) {
      if (!visible(i)) continue;
      const [x, y] = at(i);
      const distance = Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  };
  const choose = (i) => {
    chosen = i;
    step.value = order.indexOf(i);
    step.setAttribute("aria-valuetext", name(i));
    draw();
    tell(i);
  };
  canvas.onpointermove = (event) => {
    const found = near(event);
    if (found === over) return;
    over = found;
    draw();
    const told = over ?? chosen;
    if (told !== null) tell(told);
  };
  canvas.onpointerleave = () => {
    over = null;
    draw();
    if (chosen !== null) tell(chosen);
  };
  canvas.onclick = (event) => {
    const found = near(event);
    if (found !== null) choose(found);
  };
  step.oninput = () => choose(order[Number(step.value)]);

  const swatch = (k) => {
    const small = make("canvas", { width: 28, height: 28, className: "swatch" });
    const context = small.getContext("2d");
    context.translate(14, 14);
    context.beginPath();
    symbols[k % symbols.length](context, 9);
    context.fillStyle = data.colours[k % data.colours.length];
    context.fill();
    return small;
  };
  const legend = make("div", { className: "tools" });
  (data.labels ? data.classes : []).forEach((textContent, k) => {
    const button = make("button", { type: "button" }, swatch(k), textContent);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      if (hidden.has(k)) hidden.delete(k);
      else hidden.add(k);
      button.setAttribute("aria-pressed", String(!hidden.has(k)));
      draw();
    };
    legend.append(button);
  });
  const reading = make("label", { className: "reading" }, make("span", { textContent: "Row by row, from left to right" }), step);
  root.append(legend, make("div", { className: "charted" }, canvas, about), reading);
  about.append(make("p", { textContent: "Point at a row, or choose one." }));
  new ResizeObserver(draw).observe(canvas);
};

// Pictures one after the other: a slider, and a button that goes through them.
const frames = (root, data) => {
  const image = make("img", { className: "frame" });
  const last = data.frames.length - 1;
  const slider = make("input", { type: "range", min: 0, max: last, step: 1, value: last });
  const told = make("output");
  const show = () => {
    const frame = data.frames[Number(slider.value)];
    [image.src, image.alt, told.textContent] = [frame.src, frame.name, frame.name];
    slider.setAttribute("aria-valuetext", frame.name);
  };
  let timer = null;
  const play = make("button", { type: "button", textContent: "Play" });
  const stop = () => {
    clearInterval(timer);
    [timer, play.textContent] = [null, "Play"];
  };
  play.onclick = () => {
    if (timer !== null) return stop();
    if (Number(slider.value) === last) slider.value = 0;
    else slider.value = Number(slider.value) + 1;
    show();
    play.textContent = "Stop";
    timer = setInterval(() => {
      if (Number(slider.value) >= last) return stop();
      slider.value = Number(slider.value) + 1;
      show();
    }, 900);
  };
  slider.oninput = () => {
    stop();
    show();
  };
  const label = make("label", { className: "turn" }, make("span", { textContent: data.label }), slider, told);
  root.append(make("div", { className: "tools" }, play, label), make("div", { className: "plot" }, make("div", { className: "paper" }, image)));
  show();
};

for (const root of document.querySelectorAll("[data-widget]")) {
  const data = JSON.parse(document.getElementById(root.dataset.from).textContent);
  if (root.dataset.widget === "explorer") explorers[data.site] = explorer(root, data);
  else if (root.dataset.widget === "frames") frames(root, data);
  else map(root, data);
}
