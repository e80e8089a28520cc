// The page of an exported model: encodes captions, runs the model with ONNX Runtime Web, draws the images.
"use strict";

(() => {
  const config = JSON.parse(document.getElementById("config").textContent);
  const RUNTIMES = {
    webgpu: { script: "ort.webgpu.min.js", glue: "ort-wasm-simd-threaded.asyncify.mjs", label: "WebGPU" },
    wasm: { script: "ort.wasm.min.js", glue: "ort-wasm-simd-threaded.mjs", label: "WebAssembly" },
  };
  const MAX_BATCH = 16;
  const FAST_RUN = 80; // milliseconds; batches grow while a run takes less
  const MAX_SEED = 2 ** 31 - 1;
  const [MAX_WORDS, MAX_CHARACTERS] = [1000, 10000]; // of a caption, as in the demo
  const element = (id) => document.getElementById(id);
  const noiseSize = config.noise.reduce((total, [, size]) => total + size, 0);
  const encoderOptions = { ...config.encoder };
  let session = null;
  let backend = "wasm";
  let latestRequest = 0;
  let running = Promise.resolve(); // settles when the last run has ended

  // ---- Loading

  function runtimeUrl(file) {
    return new URL(config.runtime.base + file, document.baseURI).href;
  }

  function findBinary(name) {
    return RUNTIMES[name].glue.replace(".mjs", ".wasm");
  }

  function loadScript(file) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = runtimeUrl(file);
      if (config.runtime.integrity[file]) {
        script.integrity = config.runtime.integrity[file];
        script.crossOrigin = "anonymous";
      }
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${script.src} is missing`));
      document.head.append(script);
    });
  }

  // Download a file, and report the bytes of each chunk.
  async function download(url, integrity, progress) {
    const response = await fetch(url, integrity ? { integrity } : {});
    if (!response.ok) throw new Error(`${url} answered ${response.status}`);
    const chunks = [];
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      progress(value.length);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  }

  async function findBackends() {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    const isSoftware = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
    return adapter && !isSoftware ? ["webgpu", "wasm"] : ["wasm"];
  }

  async function createSession(name, model, progress) {
    const { script, glue } = RUNTIMES[name];
    const binary = findBinary(name);
    const [bytes] = await Promise.all([
      download(runtimeUrl(binary), config.runtime.integrity[binary], progress),
      loadScript(script),
    ]);
    const { wasm } = globalThis.ort.env;
    wasm.wasmPaths = { mjs: runtimeUrl(glue) };
    wasm.wasmBinary = bytes.buffer;
    // Threads need cross-origin isolation, and workers from this site.
    const isLocal = runtimeUrl("").startsWith(location.origin);
    wasm.numThreads = globalThis.crossOriginIsolated && isLocal ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
    const created = await globalThis.ort.InferenceSession.create(await model, { executionProviders: [name] });
    if (name === "webgpu") await run(created, new Float32Array(config.encoder.dim), new Float32Array(noiseSize));
    return created;
  }

  async function load() {
    if (location.protocol === "file:") {
      throw new Error(
        "browsers load models only from a web server; type python -m http.server in this folder and open http://localhost:8000",
      );
    }
    const bar = element("progress");
    const names = await findBackends();
    bar.max = config.modelSize + config.runtime.sizes[findBinary(names[0])];
    const progress = (count) => { bar.value += count; };
    const model = download("model.onnx", "", progress);
    for (const name of names) {
      try {
        session = await createSession(name, model, progress);
        backend = name;
        return;
      } catch (error) {
        if (name === names.at(-1)) throw error;
        console.info(`WebGPU failed (${error.message}); using WebAssembly.`);
      }
    }
  }

  // ---- Captions and noise

  // Return the embedding as the model expects it: with a root mean square of 1.
  function encode(caption) {
    const scale = Math.sqrt(config.encoder.dim);
    return ngram.encode(caption, encoderOptions).map((value) => value * scale);
  }

  // Return a generator of uniform numbers in (0, 1): sfc32, seeded by the seed and the number of the image.
  function createUniform(seed, number) {
    let [a, b, c, count] = [seed >>> 0, number >>> 0, 0x9e3779b9, 1];
    const next = () => {
      const sum = (((a + b) | 0) + count++) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      return ((sum >>> 0) + 0.5) / 2 ** 32;
    };
    for (let round = 0; round < 16; round++) next();
    return next;
  }

  function drawNoise(seed, number) {
    const uniform = createUniform(seed, number);
    const draw = {
      uniform: () => 2 * uniform() - 1,
      normal: () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()), // Box and Muller (1958)
    };
    return Float32Array.from(config.noise.flatMap(([kind, size]) => Array.from({ length: size }, draw[kind])));
  }

  // ---- Images

  async function run(target, embeddings, noise) {
    const { Tensor } = globalThis.ort;
    const count = noise.length / noiseSize;
    const inputs = {
      embedding: new Tensor("float32", embeddings, [count, config.encoder.dim]),
      noise: new Tensor("float32", noise, [count, noiseSize]),
    };
    // one run at a time: with WebGPU, overlapping runs of a session never end
    const previous = running;
    let finish;
    running = new Promise((resolve) => (finish = resolve));
    await previous;
    let values;
    try {
      const output = (await target.run(inputs, [config.output]))[config.output];
      values = await output.getData();
    } finally {
      finish();
    }
    const side = config.resolution;
    const area = side * side;
    return Array.from({ length: count }, (_, number) => {
      const image = new ImageData(side, side);
      for (let pixel = 0; pixel < area; pixel++) {
        // the assignment clamps and rounds
        for (let channel = 0; channel < 3; channel++) {
          image.data[4 * pixel + channel] = (values[(3 * number + channel) * area + pixel] + 1) * 127.5;
        }
        image.data[4 * pixel + 3] = 255;
      }
      return image;
    });
  }

  // Generate images of one caption or embedding, one for each noise.
  async function draw(caption, noises) {
    await ready;
    const embedding = typeof caption === "string" ? encode(caption) : Float32Array.from(caption);
    const rows = noises.map((noise) => Float32Array.from(noise));
    return run(session, join(rows.map(() => embedding)), join(rows));
  }

  function join(rows) {
    const joined = new Float32Array(rows.length * rows[0].length);
    rows.forEach((row, number) => joined.set(row, number * row.length));
    return joined;
  }

  // ---- The page

  function say(text, isError = false) {
    element("status").textContent = text;
    element("status").classList.toggle("error", isError);
  }

  function isBlending() {
    return element("blend").checked;
  }

  function checkLength(count, most, unit) {
    const [given, allowed] = [count, most].map((number) => number.toLocaleString("en"));
    if (count > most) throw new Error(`The caption has ${given} ${unit}; at most ${allowed} are allowed.`);
  }

  function readEmbedding() {
    const captions = [element("caption").value.trim()];
    if (isBlending()) captions.push(element("caption-2").value.trim());
    if (captions.includes("")) throw new Error("Type what the image should show.");
    for (const caption of captions) {
      checkLength(caption.split(/\s+/u).length, MAX_WORDS, "words");
      checkLength([...caption].length, MAX_CHARACTERS, "characters");
    }
    const embeddings = captions.map(encode);
    const empty = embeddings.findIndex((embedding) => embedding.every((value) => value === 0));
    if (empty >= 0) throw new Error(`“${captions[empty]}” has no word that the model can use.`);
    const share = isBlending() ? element("share").value / 100 : 0;
    const [first, last] = [embeddings[0], embeddings.at(-1)];
    return first.map((value, index) => value + share * (last[index] - value));
  }

  function readInteger(id, low, high) {
    const number = Math.min(Math.max(Math.trunc(Number(element(id).value)) || 0, low), high);
    element(id).value = number;
    return number;
  }

  function setFrames(count) {
    const grid = element("images");
    while (grid.children.length > count) grid.lastElementChild.remove();
    while (grid.children.length < count) {
      const frame = element("frame").content.firstElementChild.cloneNode(true);
      const canvas = frame.querySelector("canvas");
      canvas.width = canvas.height = config.resolution;
      frame.querySelector("button").addEventListener("click", () => save(canvas));
      grid.append(frame);
    }
    grid.dataset.count = count;
    return [...grid.querySelectorAll("canvas")];
  }

  async function drawGrid() {
    const request = ++latestRequest;
    try {
      await ready;
      await running;
      if (request !== latestRequest) return; // of the events of a slider, only the last one is drawn
      const embedding = readEmbedding();
      const seed = readInteger("seed", 0, MAX_SEED);
      const canvases = setFrames(readInteger("count", 1, 16));
      const started = performance.now();
      for (let first = 0, size = 1; first < canvases.length; ) {
        const numbers = Array.from({ length: Math.min(size, canvases.length - first) }, (_, index) => first + index);
        const before = performance.now();
        const images = await draw(embedding, numbers.map((number) => drawNoise(seed, number)));
        if (request !== latestRequest) return;
        images.forEach((image, index) => showImage(canvases[first + index], image, first + index));
        first += numbers.length;
        size = performance.now() - before < FAST_RUN ? Math.min(2 * size, MAX_BATCH) : 1;
        await new Promise((resolve) => setTimeout(resolve)); // lets the browser paint
        if (request !== latestRequest) return;
      }
      say(describe(canvases.length, performance.now() - started));
      document.body.dataset.state = "drawn";
    } catch (error) {
      if (request === latestRequest) say(error.message, true);
    }
  }

  function showImage(canvas, image, number) {
    canvas.getContext("2d").putImageData(image, 0, 0);
    const caption = element("caption").value.trim();
    const second = isBlending() ? ` and ${element("caption-2").value.trim()}` : "";
    canvas.setAttribute("aria-label", `Image ${number + 1}: ${caption}${second}`);
    canvas.parentElement.classList.add("drawn");
  }

  function describe(count, milliseconds) {
    const seconds = (milliseconds / 1000).toFixed(milliseconds < 1000 ? 2 : 1);
    return `${count === 1 ? "1 image" : `${count} images`} in ${seconds} s (${RUNTIMES[backend].label}).`;
  }

  function save(canvas) {
    const words = element("caption").value.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["image"];
    const number = [...element("images").querySelectorAll("canvas")].indexOf(canvas);
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${words.slice(0, 8).join("-")}-${element("seed").value}-${number}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  }

  function addExamples() {
    for (const caption of config.examples) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.textContent = caption;
      chip.title = caption;
      chip.addEventListener("click", () => {
        const isSecond = isBlending() && element("caption").dataset.used !== "first";
        element(isSecond ? "caption-2" : "caption").value = caption;
        drawGrid();
      });
      element("examples").append(chip);
    }
    element("examples").hidden = !config.examples.length;
    element("caption").value = config.examples[0] ?? "";
    element("caption-2").value = config.examples[1] ?? "";
  }

  function listen() {
    element("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      drawGrid();
    });
    element("dice").addEventListener("click", () => {
      element("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 10000;
      drawGrid();
    });
    for (const id of ["count", "seed"]) element(id).addEventListener("change", drawGrid);
    element("share").addEventListener("input", drawGrid);
    element("blend").addEventListener("change", () => {
      element("blending").hidden = !isBlending();
      drawGrid();
    });
    // an example replaces the caption that was edited last
    for (const id of ["caption", "caption-2"]) {
      element(id).addEventListener("focus", () => {
        element("caption").dataset.used = id === "caption" ? "first" : "second";
      });
    }
  }

  addExamples();
  listen();
  const ready = load().then(
    () => {
      document.body.dataset.state = "ready";
      element("loading").hidden = true;
      element("draw").disabled = false;
      say("");
    },
    (error) => {
      document.body.dataset.state = "failed";
      element("loading").hidden = true;
      throw new Error(`The model could not be loaded: ${error.message}.`);
    },
  );
  ready.then(() => element("caption").value && drawGrid(), (error) => say(error.message, true));
  globalThis.stackflower = { ready, encode, drawNoise, draw };
})();
