# Sinatra, on Rack, under Puma or WEBrick.
require 'json'
require 'sinatra/base'
require 'rack/method_override'

class App < Sinatra::Base
  use Rack::MethodOverride
  set :host_authorization, { permitted_hosts: [] } rescue nil
  disable :protection, :show_exceptions
  set :logging, false

  def tell(handler, *readings)
    identity = request.env['HTTP_X_VERIFIED_IDENTITY']
    claims = {}
    claims = JSON.parse(identity.split('.')[1].tr('-_', '+/').unpack1('m')) if identity
    line = { handler: handler, sub: claims['sub'], phones: readings.compact,
             path: request.env['REQUEST_URI'].b.force_encoding('UTF-8').scrub.split('?')[0], htu: claims['htu'] }.to_json
    File.open(ENV['REACHED'], 'a') { |file| file.puts(line) }
    '{}'
  end

  post('/api/register') { tell('register', request.POST['phone'], params['phone']) }
  post('/api/json/register') do
    document = JSON.parse(request.body.read)
    merged = document.merge(request.GET)
    tell('register', document['phone'], merged['phone'])
  end
  post('/api/query/register') { tell('register', request.GET['phone'], params['phone']) }
  post('/api/sms/code') { tell('send') }
  post('/api/json/sms/code') { tell('send') }
  put('/api/account') { tell('account') }
  %i[get post put patch delete].each { |verb| send(verb, '*') { '{}' } }
end
