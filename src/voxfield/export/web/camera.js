// The camera. The world is right-handed with +Z up; a pose is 12 numbers, the rows of a 3 x 4 camera-to-world matrix,
// and looks along its own -Z.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (a, b, t) => a.map((value, i) => value + t * b[i]);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((value) => value / Math.hypot(...a));

function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), w = cross(axis, v), d = dot(axis, v) * (1 - c);
  return v.map((value, i) => value * c + w[i] * s + axis[i] * d);
}

class Look {
  constructor(scene) {
    this.scene = scene;
    this.longest = Math.max(...scene.high.map((high, i) => high - scene.low[i]));
    this.background = [0, 0, 0, 0];
    this.begin();
  }

  begin() {
    this.place(this.scene.camera, this.scene.fov, this.scene.aspect);
  }

  // Take a pose, and turn from now on about the point before it that is nearest to the middle of the scene.
  place(rows, fov, aspect) {
    const column = (i) => [rows[i], rows[4 + i], rows[8 + i]];
    this.eye = column(3);
    const back = unit(column(2)), right = unit(cross(column(1), back));
    this.axes = [right, cross(back, right), back];
    this.fov = fov;
    this.aspect = aspect;
    const middle = this.scene.high.map((high, i) => (high + this.scene.low[i]) / 2);
    const away = Math.max(-dot(along(middle, this.eye, -1), back), 0.05 * this.longest);
    this.target = along(this.eye, back, -away);
  }

  get rows() {
    return [0, 1, 2].flatMap((i) => [...this.axes.map((axis) => axis[i]), this.eye[i]]);
  }

  get distance() {
    return Math.hypot(...along(this.eye, this.target, -1));
  }

  // Of half the angles of view: all of the picture is to be seen, whatever the shape of the canvas.
  tangents(shape) {
    const high = Math.tan((this.fov * Math.PI) / 360);
    if (this.aspect === null || shape >= this.aspect) return [high * shape, high];
    return [high * this.aspect, (high * this.aspect) / shape];
  }

  orbit(sideways, upwards) {
    const up = [0, 0, 1];
    // Not over the poles, where left and right would change places; who begins beyond may go on.
    const steep = Math.acos(Math.max(-1, Math.min(1, dot(this.axes[2], up))));
    const pitch = Math.max(Math.min(upwards, Math.max(0, steep - 0.03)), Math.min(0, steep - (Math.PI - 0.03)));
    const right = this.axes[0];
    const turn = (v) => turned(turned(v, right, -pitch), up, -sideways);
    this.eye = along(this.target, turn(along(this.eye, this.target, -1)), 1);
    this.axes = this.axes.map((axis) => unit(turn(axis)));
  }

  pan(right, up) {
    for (const name of ["eye", "target"]) {
      this[name] = along(along(this[name], this.axes[0], right * this.distance), this.axes[1], up * this.distance);
    }
  }

  zoom(factor) {
    const distance = Math.min(Math.max(this.distance * factor, 0.01 * this.longest), 50 * this.longest);
    this.eye = along(this.target, unit(along(this.eye, this.target, -1)), distance);
  }
}
