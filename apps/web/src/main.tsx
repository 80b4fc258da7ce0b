import { render } from 'preact';
import { App } from './app.tsx';
import './style/colours.css';
import './style/frame.css';
import './style/controls.css';
import './style/form.css';
import './style/steps.css';
import './style/charts.css';
import './style/cards.css';
import './style/patches.css';

render(<App />, document.getElementById('app')!);
