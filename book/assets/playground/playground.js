// The page around diffusion.js: controls, pictures, the drawing. The markup is in book/playground.md.
"use strict";

(() => {
  const WEIGHTS = new URL("weights.js", document.currentScript.src);
  const MOVES = [2, 5, 10, 20, 50, 100, 250, 1000], LEVELS = 17, SIDE = 8, PIXELS = SIDE * SIDE;
  const CALM = matchMedia("(prefers-reduced-motion: reduce)");
  const root = document.getElementById("playground");
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const chosen = (name) => root.querySelector(`input[name="pg-${name}"]:checked`).value;
  const said = (text) => { part("status").textContent = text; };

  let network, alpha_bars, T;        // from the weights
  let walk = [], running = 0;        // the states so far; the number of the run that may still add to them
  const grey = new Uint8Array(PIXELS), made_anew = Array(PIXELS).fill(false); // the drawing

  // Pictures --------------------------------------------------------------------------------------------------------

  // -1 is black and 1 white, as in the book's figures; beyond them it stays so.
  function paint(canvas, x) {
    const context = canvas.getContext("2d"), image = context.createImageData(SIDE, SIDE);
    for (let p = 0; p < PIXELS; p++) {
      image.data.fill(255 * (Math.max(-1, Math.min(1, x[p])) + 1) / 2, 4 * p, 4 * p + 3);
      image.data[4 * p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function show(k) {
    const { t, x_t, x_0_hat } = walk[k], track = part("time"), text = `t = ${t}`;
    paint(part("x_t"), x_t);
    paint(part("x_0_hat"), x_0_hat);
    [track.max, track.value, track.disabled] = [walk.length - 1, k, walk.length < 2];
    track.setAttribute("aria-valuetext", text);
    part("time-shown").textContent = text;
  }

  // A walk ----------------------------------------------------------------------------------------------------------

  const settings = () => ({
    from: chosen("from"), digit: chosen("digit"), moves: MOVES[part("moves").value], eta: +part("eta").value,
    scale: +part("scale").value, seed: part("seed").value >>> 0, t: +part("t").value,
  });
  const drawing = () => Float64Array.from(grey, (level) => 2 * level / (LEVELS - 1) - 1); // data.to_unit

  function model({ digit, scale }) {
    return digit === "any" ? (x_t, t) => network(x_t, t) : diffusion.guided(network, +digit, scale);
  }

  // The start of a walk: the state, its t, and the stream that goes on giving noise. x_T is the stream's first 64 draws.
  function start({ from, seed, t }) {
    const noise = diffusion.normals(seed), eps = Float64Array.from({ length: PIXELS }, noise);
    return from === "drawing" ? { x: diffusion.q_sample(alpha_bars, drawing(), t, eps), t, noise } : { x: eps, t: T, noise };
  }

  // Move after move, as many as fit between two frames, so that the page answers all the while. A new run ends an old one.
  function run() {
    if (!network) return;
    const s = settings();
    if (s.from === "part" && !made_anew.includes(true)) return stop("Mark the part that is to be made anew first.");
    const { x, t, noise } = start(s), me = ++running, began = performance.now();
    const moves = Math.min(s.moves, t), known = s.from === "part" ? { x_0: drawing(), mask: made_anew.map((m) => !m) } : null;
    const states = diffusion.ddim(alpha_bars, model(s), x, diffusion.steps(t, moves), s.eta, noise, known);
    walk = [];
    part("run").textContent = "Stop";
    said("Sampling …");
    const frame = () => {
      const until = performance.now() + 24;
      while (me === running && performance.now() < until) {
        const state = states.next();
        if (state.done) {
          show(walk.length - 1);
          const what = s.digit === "any" ? "any digit" : `a ${s.digit}`, took = (performance.now() - began) / 1000;
          const how = { noise: "from noise", drawing: `from your drawing at t = ${t}`, part: "around your drawing" }[s.from];
          return stop(`Done: ${what}, ${how}, ${moves} moves in ${took.toFixed(1)} s. The slider goes back through them.`);
        }
        walk.push(state.value);
      }
      if (me !== running) return;
      if (!CALM.matches || walk.length === 1) show(walk.length - 1);
      requestAnimationFrame(frame);
    };
    frame();
  }

  function stop(text) {
    running++;
    part("run").textContent = "Sample";
    said(text);
  }

  // The drawing, noised, and what the network makes of it at once.
  function preview() {
    if (!network) return;
    const s = settings(), { x, t } = start(s);
    stop(`Your drawing at t = ${t}, and the network's estimate of it. “Sample” goes on from here.`);
    walk = [{ t, x_t: x, x_0_hat: diffusion.estimate(alpha_bars, model(s), x, t) }];
    show(0);
  }

  // What the controls say of themselves.
  function changed() {
    for (const name of ["eta", "scale", "t"]) part(`${name}-shown`).textContent = part(name).value;
    part("moves-shown").textContent = MOVES[part("moves").value];
    part("moves").setAttribute("aria-valuetext", MOVES[part("moves").value]);
    const { from, digit } = settings();
    part("t").disabled = from !== "drawing";
    part("scale").disabled = digit === "any";
  }

  // The drawing -----------------------------------------------------------------------------------------------------

  const cells = Array.from({ length: PIXELS }, (_, p) => {
    const cell = document.createElement("div");
    cell.setAttribute("role", "gridcell");
    cell.tabIndex = p ? -1 : 0; // one stop of the tab key; arrows do the rest
    if (p % SIDE === 0) part("grid").append(document.createElement("div"));
    part("grid").lastChild.setAttribute("role", "row");
    part("grid").lastChild.append(cell);
    return cell;
  });

  function redraw(p) {
    const where = `row ${Math.floor(p / SIDE) + 1}, column ${p % SIDE + 1}`;
    cells[p].style.backgroundColor = `rgb(${Array(3).fill(Math.round(255 * grey[p] / (LEVELS - 1)))})`;
    cells[p].classList.toggle("pg-made", made_anew[p]);
    cells[p].setAttribute("aria-label", `${where}: grey ${grey[p]} of ${LEVELS - 1}${made_anew[p] ? ", to be made anew" : ""}`);
  }

  function focus(p) {
    cells.forEach((cell, k) => { cell.tabIndex = k === p ? 0 : -1; });
    cells[p].focus({ preventScroll: true });
  }

  // What a stroke that begins at p does: it puts the chosen grey or mark, or takes it away where it already is.
  function stroke(p) {
    if (chosen("tool") === "mark") {
      const mark = !made_anew[p];
      return (k) => { made_anew[k] = mark; redraw(k); };
    }
    const level = +part("level").value, put = grey[p] === level ? 0 : level;
    return (k) => { grey[k] = put; redraw(k); };
  }

  function drawn() {
    if (chosen("from") === "drawing") preview();
  }

  function under({ clientX, clientY }) {
    const box = part("grid").getBoundingClientRect();
    const [c, r] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height].map((v) => Math.floor(v * SIDE));
    return c >= 0 && c < SIDE && r >= 0 && r < SIDE ? r * SIDE + c : -1;
  }

  let dragging = null;
  part("grid").addEventListener("pointerdown", (event) => {
    const p = under(event);
    if (p < 0 || event.button > 0) return;
    event.preventDefault();
    part("grid").setPointerCapture(event.pointerId);
    dragging = stroke(p);
    dragging(p);
    focus(p);
  });
  part("grid").addEventListener("pointermove", (event) => {
    const p = dragging ? under(event) : -1;
    if (p >= 0) dragging(p);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    part("grid").addEventListener(end, () => {
      if (dragging) drawn();
      dragging = null;
    });
  }
  part("grid").addEventListener("keydown", (event) => {
    const p = cells.indexOf(event.target), r = Math.floor(p / SIDE), c = p % SIDE;
    const to = { ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c] }[event.key];
    if (event.key === " " || event.key === "Enter") {
      stroke(p)(p);
      drawn();
    } else if (to) {
      focus(Math.max(0, Math.min(SIDE - 1, to[0])) * SIDE + Math.max(0, Math.min(SIDE - 1, to[1])));
    } else {
      return;
    }
    event.preventDefault();
  });

  function edit(change) {
    for (let p = 0; p < PIXELS; p++) {
      change(p);
      redraw(p);
    }
    drawn();
  }

  // What the buttons and controls do --------------------------------------------------------------------------------

  part("clear").addEventListener("click", () => edit((p) => { grey[p] = 0; made_anew[p] = false; }));
  part("take").addEventListener("click", () => { // the estimate that is shown, in 17 levels
    if (!walk.length) return;
    const x = walk[part("time").value].x_0_hat;
    edit((p) => { grey[p] = Math.round((Math.max(-1, Math.min(1, x[p])) + 1) / 2 * (LEVELS - 1)); });
  });
  part("level").addEventListener("input", () => { part("level-shown").textContent = part("level").value; });
  part("time").addEventListener("input", () => {
    if (part("run").textContent === "Stop") stop("Stopped.");
    show(+part("time").value);
  });
  part("run").addEventListener("click", () => (part("run").textContent === "Stop" ? stop("Stopped.") : run()));
  part("next").addEventListener("click", () => {
    part("seed").value = (+part("seed").value + 1) >>> 0;
    run();
  });
  // A new walk for every change; only while t is chosen for a drawing, its noised picture instead. The seed does not wait
  // for its `change`: that would come with the click on “Sample”, which would then stop the walk it began.
  const of_drawing = ({ target }) => chosen("from") === "drawing" && (target === part("t") || target.name === "pg-from");
  part("controls").addEventListener("input", (event) => {
    changed();
    if (of_drawing(event)) preview();
    else if (event.target === part("seed")) run();
  });
  part("controls").addEventListener("change", (event) => {
    if (!of_drawing(event) && event.target !== part("seed")) run();
  });
  part("controls").addEventListener("submit", (event) => event.preventDefault());

  // The weights -----------------------------------------------------------------------------------------------------

  edit(() => {});
  [part("moves").max, part("level").max] = [MOVES.length - 1, LEVELS - 1];
  changed();
  const script = document.createElement("script"); // a script, since a page opened from a file may not fetch
  script.src = WEIGHTS;
  script.onload = () => {
    const stored = window.playgroundWeights;
    network = diffusion.unet(diffusion.unpack(stored));
    T = stored.T;
    alpha_bars = diffusion.cosine(T);
    part("run").disabled = false;
    run();
  };
  script.onerror = () => said("The network's weights could not be loaded; build the book again.");
  document.head.append(script);
})();
